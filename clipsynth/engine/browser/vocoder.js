/** From a log-mel to sound: magnitudes that have it, then phases by fast Griffin-Lim (model/magnitude, model/phase). */
import { RealFFT } from "./fft.js";
import { Generator } from "./noise.js";

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

export class Vocoder {
  /** `about`: sizes, settings, and of each mel filter its first bin and its values. */
  constructor(about) {
    Object.assign(this, about); // hop, least, peak, momentum, rounds, iterations, corrections, frames, filters
    this.length = 2 * this.hop;
    this.bins = this.hop + 1;
    this.fft = new RealFFT(this.length);
    this.window = Float64Array.from({ length: this.length }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / this.length));
    const covered = new Float64Array(this.bins);
    for (const [first, values] of this.filters) values.forEach((value, k) => (covered[first + k] += value));
    this.bands = this.filters.map(([first, values]) => {
      const [top, sum] = [Math.max(...values), values.reduce((a, b) => a + b)];
      const share = values.map((value, k) => value / Math.max(covered[first + k], 1e-8));
      return { first, values, share, level: values.map((value) => value / top / sum) };
    });
    const drawn = new Generator("griffin-lim");
    this.turns = Float64Array.from({ length: this.frames * this.bins }, () => 2 * Math.PI * drawn.uniform());
  }

  /** Each band of a frame of magnitudes scaled towards its mel, by a factor within bounds. */
  #scale(size, at, wanted, heard, low, high) {
    const factor = new Float64Array(this.bins);
    this.bands.forEach(({ first, values, share }, band) => {
      let there = 0;
      for (let k = 0; k < values.length; k++) there += values[k] * heard[first + k];
      const ratio = clamp(wanted[band] / Math.max(there, 1e-8), low, high);
      for (let k = 0; k < share.length; k++) factor[first + k] += share[k] * ratio;
    });
    for (let bin = 0; bin < this.bins; bin++) size[at + bin] *= factor[bin];
  }

  /** The mel of each frame, no logarithm, from (mels, frames). */
  #wanted(logMel) {
    const mels = this.bands.length;
    const of = (frame) => Float64Array.from({ length: mels }, (_, band) => Math.exp(logMel[band * this.frames + frame]));
    return Array.from({ length: this.frames }, (_, frame) => of(frame));
  }

  /** Magnitudes (frames, bins): the mean level of each band, corrected by the network's `change` (bins, frames). */
  magnitudes(logMel, change) {
    const { frames, bins } = this;
    const size = new Float64Array(frames * bins);
    this.#wanted(logMel).forEach((wanted, frame) => {
      const at = frame * bins;
      const own = size.subarray(at, at + bins).fill(this.least);
      this.bands.forEach(({ first, level }, band) => level.forEach((value, k) => (own[first + k] += value * wanted[band])));
      for (let bin = 0; bin < bins; bin++) own[bin] *= Math.exp(change[bin * frames + frame]);
      for (let round = 0; round < this.rounds; round++) this.#scale(size, at, wanted, own, 0.05, 20);
    });
    return size;
  }

  /** The inverse transform for frames that overlap by half. */
  #overlapAdd(re, im) {
    const { hop, window, frames } = this;
    const sound = new Float64Array((frames + 1) * hop);
    const frame = new Float64Array(this.length);
    for (let f = 0; f < frames; f++) {
      this.fft.inverse(re, im, f * this.bins, frame);
      for (let n = 0; n < this.length; n++) sound[f * hop + n] += frame[n] * window[n];
    }
    for (let n = 0; n < sound.length; n++) {
      const [rise, fall] = [window[n % hop] ** 2, window[(n % hop) + hop] ** 2];
      sound[n] /= n < hop ? Math.max(rise, 1e-12) : n < frames * hop ? rise + fall : Math.max(fall, 1e-12);
    }
    return sound;
  }

  #cut(sound, re, im) {
    const frame = new Float64Array(this.length);
    for (let f = 0; f < this.frames; f++) {
      for (let n = 0; n < this.length; n++) frame[n] = sound[f * this.hop + n] * this.window[n];
      this.fft.forward(frame, re, im, f * this.bins);
    }
  }

  /** Sound (frames * hop) for a log-mel; `pause` is awaited on the way, so that the work can be stopped. */
  async sound(logMel, change, pause) {
    const size = this.magnitudes(logMel, change);
    const wanted = this.#wanted(logMel);
    const re = size.map((value, k) => value * Math.cos(this.turns[k]));
    const im = size.map((value, k) => value * Math.sin(this.turns[k]));
    const [nowRe, nowIm, lastRe, lastIm] = Array.from({ length: 4 }, () => new Float64Array(size.length));
    const carried = this.momentum / (1 + this.momentum);
    for (let turn = 0; turn < this.iterations; turn++) {
      await pause();
      this.#cut(this.#overlapAdd(re, im), nowRe, nowIm);
      const left = this.iterations - 1 - turn;
      if (left % 3 === 0 && left < 3 * this.corrections) {
        wanted.forEach((mel, frame) => {
          const at = frame * this.bins;
          const there = Float64Array.from({ length: this.bins }, (_, bin) => Math.hypot(nowRe[at + bin], nowIm[at + bin]));
          this.#scale(size, at, mel, there, 0.5, 2);
        });
      }
      const share = turn ? carried : 0;
      for (let k = 0; k < size.length; k++) {
        const [a, b] = [nowRe[k] - share * lastRe[k], nowIm[k] - share * lastIm[k]];
        const gain = size[k] / (Math.sqrt(a * a + b * b) + 1e-16);
        [re[k], im[k]] = [a * gain, b * gain];
      }
      lastRe.set(nowRe);
      lastIm.set(nowIm);
    }
    const edge = (this.length - this.hop) / 2;
    return limitPeaks(this.#overlapAdd(re, im).subarray(edge, -edge), this.peak);
  }
}

/** Sound that nowhere exceeds `peak`: softer around one that does, within `reach` samples; the rest as it is. */
function limitPeaks(sound, peak, reach = 256) {
  const gain = new Float64Array(sound.length).fill(1);
  let loud = false;
  sound.forEach((value, n) => {
    if (Math.abs(value) <= peak) return;
    loud = true;
    const wanted = peak / Math.abs(value);
    for (let k = Math.max(0, n - reach); k <= Math.min(sound.length - 1, n + reach); k++) gain[k] = Math.min(gain[k], wanted);
  });
  if (!loud) return Float32Array.from(sound);
  const bell = Float64Array.from({ length: 2 * reach + 1 }, (_, k) => 0.5 - 0.5 * Math.cos((Math.PI * k) / reach));
  const sum = bell.reduce((a, b) => a + b);
  return Float32Array.from(sound, (value, n) => {
    let smooth = 0;
    for (let k = -reach; k <= reach; k++) smooth += bell[k + reach] * gain[clamp(n + k, 0, sound.length - 1)];
    return (value * smooth) / sum;
  });
}
