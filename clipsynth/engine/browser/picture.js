/** A picture file as the picture tower sees it: bounded, upright, on white, and scaled as Pillow does (model/inputs). */
import { Refusal } from "./refusal.js";

export const LIMITS = { bytes: 20e6, pixels: 50e6, slimmest: 64 };
const KINDS = "give a PNG, JPEG, WebP or GIF file";
const BITS = 22; // of Pillow's weights

/** Width and height that a file's head tells, before anything is decoded; null for another kind of file. */
export function sizeInHead(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (at, count) => String.fromCharCode(...bytes.subarray(at, at + count));
  try {
    if (word(1, 3) === "PNG" && word(12, 4) === "IHDR") return [view.getUint32(16), view.getUint32(20)];
    if (word(0, 4) === "GIF8") return [view.getUint16(6, true), view.getUint16(8, true)];
    if (word(0, 4) === "RIFF" && word(8, 4) === "WEBP") return webpSize(word(12, 4), view);
    if (view.getUint16(0) === 0xffd8) return jpegSize(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the file ends too early
  }
  return null;
}

function webpSize(kind, view) {
  if (kind === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind === "VP8L") {
    const packed = view.getUint32(21, true);
    return [(packed & 0x3fff) + 1, ((packed >>> 14) & 0x3fff) + 1];
  }
  const three = (at) => view.getUint16(at, true) + view.getUint8(at + 2) * 65536 + 1;
  return kind === "VP8X" ? [three(24), three(27)] : null;
}

function jpegSize(view) {
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) return null;
    const mark = view.getUint8(at + 1);
    if (mark >= 0xc0 && mark <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(mark)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    at += mark === 0xff ? 1 : 2 + view.getUint16(at + 2);
  }
}

/** A file's picture, decoded; refuses what is too large, too slim, or no picture. */
async function opened(file) {
  const begin = `cannot use ${(file.name || "this picture").slice(0, 60)}:`;
  if (file.size > LIMITS.bytes) throw new Refusal(`${begin} it has more than ${LIMITS.bytes / 1e6} MB: save it smaller`);
  const size = sizeInHead(new Uint8Array(await file.arrayBuffer()));
  if (!size || !size[0] || !size[1]) throw new Refusal(`${begin} it is no picture that can be read; ${KINDS}`);
  const [width, height] = size;
  const told = `${begin} it is ${width} by ${height} pixels:`;
  if (width * height > LIMITS.pixels) throw new Refusal(`${told} scale it down`);
  if (Math.max(width, height) > LIMITS.slimmest * Math.min(width, height)) throw new Refusal(`${told} crop it`);
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Refusal(`${begin} it is damaged, or of another kind; ${KINDS}`);
  }
}

/** Which samples make each sample of a shorter or longer row, and with what whole-number weights (Pillow, bicubic). */
function weights(before, after) {
  const scale = before / after;
  const wide = Math.max(scale, 1);
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5));
    const count = Math.min(before, Math.trunc(centre + 2 * wide + 0.5)) - first;
    const shares = Array.from({ length: count }, (_, k) => cubic(Math.abs((k + first - centre + 0.5) / wide)));
    const sum = shares.reduce((a, b) => a + b);
    return { first, whole: shares.map((share) => Math.trunc((share / sum) * 2 ** BITS + (share < 0 ? -0.5 : 0.5))) };
  });
}

/** Rows or columns of 8-bit samples, resampled: `count` lines; sample k of line n lies at n * `line` + k * `step`. */
function resample(from, to, plan, count, old, fresh) {
  for (let n = 0; n < count; n++) {
    plan.forEach(({ first, whole }, place) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1);
        for (let k = 0; k < whole.length; k++) sum += whole[k] * from[n * old.line + (first + k) * old.step + channel];
        to[n * fresh.line + place * fresh.step + channel] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
      }
    });
  }
}

/** Some rows of a picture on white, as RGBA. */
function rows(bitmap, first, count) {
  const canvas = new OffscreenCanvas(bitmap.width, count);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, bitmap.width, count);
  pen.drawImage(bitmap, 0, -first);
  return pen.getImageData(0, 0, bitmap.width, count).data;
}

const halfEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** The square that the tower sees: (side, side, 3) bytes, the short side scaled, then the centre. */
export async function squareOf(file, side) {
  const bitmap = await opened(file);
  const { width, height } = bitmap;
  const short = Math.min(width, height);
  const [wide, high] = [width, height].map((length) => Math.trunc((side * length) / short));
  const [left, top] = [wide, high].map((length) => halfEven((length - side) / 2));
  const narrow = new Uint8Array(3 * wide * height); // scaled from left to right
  const across = weights(width, wide);
  const strip = Math.max(1, Math.floor(1e6 / width));
  for (let first = 0; first < height; first += strip) {
    const count = Math.min(strip, height - first);
    const part = narrow.subarray(3 * wide * first);
    resample(rows(bitmap, first, count), part, across, count, { line: 4 * width, step: 4 }, { line: 3 * wide, step: 3 });
  }
  bitmap.close();
  const small = new Uint8Array(3 * wide * high);
  resample(narrow, small, weights(height, high), wide, { line: 3, step: 3 * wide }, { line: 3, step: 3 * wide });
  const square = new Uint8Array(3 * side * side);
  for (let y = 0; y < side; y++) square.set(small.subarray(3 * ((top + y) * wide + left), 3 * ((top + y) * wide + left + side)), 3 * side * y);
  return square;
}

/** Bytes (side, side, 3) as the network takes them: (3, side, side). */
export function planes(square) {
  const count = square.length / 3;
  return Float32Array.from({ length: square.length }, (_, k) => square[3 * (k % count) + Math.floor(k / count)]);
}
