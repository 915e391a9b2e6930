/** The Fourier transform of real frames whose length is a power of two, by a complex one of half the length. */
export class RealFFT {
  constructor(length) {
    const half = (this.half = length / 2);
    this.cos = Float64Array.from({ length: half + 1 }, (_, k) => Math.cos((2 * Math.PI * k) / length));
    this.sin = Float64Array.from({ length: half + 1 }, (_, k) => Math.sin((2 * Math.PI * k) / length));
    this.order = new Uint32Array(half);
    for (let k = 1; k < half; k++) this.order[k] = (this.order[k >> 1] >> 1) | (k & 1 ? half / 2 : 0);
    this.a = new Float64Array(half);
    this.b = new Float64Array(half);
  }

  /** In place: the transform of a + ib. */
  #complex(a, b) {
    const { half, order, cos, sin } = this;
    for (let k = 0; k < half; k++) {
      const other = order[k];
      if (other > k) {
        [a[k], a[other]] = [a[other], a[k]];
        [b[k], b[other]] = [b[other], b[k]];
      }
    }
    for (let size = 1; size < half; size *= 2) {
      const stride = half / size;
      for (let start = 0; start < half; start += 2 * size) {
        for (let k = 0; k < size; k++) {
          const [low, high, turn] = [start + k, start + k + size, k * stride];
          const re = a[high] * cos[turn] + b[high] * sin[turn];
          const im = b[high] * cos[turn] - a[high] * sin[turn];
          a[high] = a[low] - re;
          b[high] = b[low] - im;
          a[low] += re;
          b[low] += im;
        }
      }
    }
  }

  /** `frame` of `length` numbers to `re` and `im` of half + 1, from `at` on. */
  forward(frame, re, im, at) {
    const { half, a, b, cos, sin } = this;
    for (let k = 0; k < half; k++) {
      a[k] = frame[2 * k];
      b[k] = frame[2 * k + 1];
    }
    this.#complex(a, b);
    for (let k = 0; k <= half; k++) {
      const [i, j] = [k % half, (half - k) % half];
      const [oddRe, oddIm] = [(b[i] + b[j]) / 2, (a[j] - a[i]) / 2];
      re[at + k] = (a[i] + a[j]) / 2 + oddRe * cos[k] + oddIm * sin[k];
      im[at + k] = (b[i] - b[j]) / 2 + oddIm * cos[k] - oddRe * sin[k];
    }
  }

  /** The inverse: `re` and `im` from `at` on to `frame`. */
  inverse(re, im, at, frame) {
    const { half, a, b, cos, sin } = this;
    for (let k = 0; k < half; k++) {
      const [i, j] = [at + k, at + half - k];
      const [mine, other] = k ? [im[i], -im[j]] : [0, 0]; // the ends of a real frame's spectrum are real
      const [re1, im1] = [(re[i] - re[j]) / 2, (mine - other) / 2];
      const [oddRe, oddIm] = [re1 * cos[k] - im1 * sin[k], re1 * sin[k] + im1 * cos[k]];
      a[k] = (re[i] + re[j]) / 2 - oddIm;
      b[k] = (mine + other) / 2 + oddRe;
    }
    this.#complex(b, a); // with the parts exchanged it goes backwards
    for (let k = 0; k < half; k++) {
      frame[2 * k] = a[k] / half;
      frame[2 * k + 1] = b[k] / half;
    }
  }
}
