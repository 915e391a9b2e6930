/** The noise of a seed, the same as in Python: base/hashing names the generator, torch draws (MT19937, Box-Muller). */

/** The first 64 bits after the point of a prime's root, as SHA-256 takes its constants. */
function roots(count, root) {
  const found = [];
  for (let n = 2; found.length < count; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (prime) found.push(((root(n) % 1) * 2 ** 32) >>> 0);
  }
  return found;
}

const START = roots(8, Math.sqrt);
const ROUND = roots(64, Math.cbrt);
const turned = (x, n) => (x >>> n) | (x << (32 - n));

/** SHA-256 of a text, as 8 words; `crypto.subtle` has it on https alone, and a static host may be without. */
export function sha256(text) {
  const bytes = new TextEncoder().encode(text);
  const blocks = Math.ceil((bytes.length + 9) / 64);
  const padded = new Uint8Array(64 * blocks);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, 8 * bytes.length);
  const hash = Uint32Array.from(START);
  const w = new Uint32Array(64);
  for (let block = 0; block < blocks; block++) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(64 * block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + w[i - 7] + (turned(a, 7) ^ turned(a, 18) ^ (a >>> 3)) + (turned(b, 17) ^ turned(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i++) {
      const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
      const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] += value));
  }
  return hash;
}

/** The generator that `torch_rng(name, seed=seed)` gives: torch seeds MT19937 with the lower 32 of its 63 bits. */
function seedOf(name, seed) {
  const [first, second] = sha256(`[${seed}, "${name}"]`);
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setUint32(0, first);
  bytes.setUint32(4, second);
  return Number(BigInt.asUintN(32, bytes.getBigUint64(0, true) >> 1n));
}

export class Generator {
  constructor(name, seed = 0) {
    this.state = new Uint32Array(624);
    this.place = 624;
    this.state[0] = seedOf(name, seed);
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
  }

  #renew() {
    const s = this.state;
    for (let i = 0; i < 624; i++) {
      const joined = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
      s[i] = s[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  /** A number in [0, 1) of 24 bits, as torch draws a float32. */
  uniform() {
    if (this.place === 624) this.#renew();
    let x = this.state[this.place++];
    x ^= x >>> 11;
    x ^= (x << 7) & 0x9d2c5680;
    x ^= (x << 15) & 0xefc60000;
    return ((x ^ (x >>> 18)) & 0xffffff) / 0x1000000;
  }

  /** Standard normal numbers, a multiple of 16: torch makes 8 pairs of 16 uniform numbers at a time. */
  normals(count) {
    const drawn = Float32Array.from({ length: count }, () => this.uniform());
    for (let start = 0; start < count; start += 16) {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - drawn[i]));
        const angle = 2 * Math.PI * drawn[i + 8];
        drawn[i] = radius * Math.cos(angle);
        drawn[i + 8] = radius * Math.sin(angle);
      }
    }
    return drawn;
  }
}
