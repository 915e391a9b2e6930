/** Sound as a file, and pictures of spectrograms and of what the network sees. */

const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];

function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(at), MAGMA.length - 2);
  return MAGMA[low].map((value, i) => value + (at - low) * (MAGMA[low + 1][i] - value));
}

/** A mel (mels, frames) in [-1, 1] on a canvas of that size; a share of the range from the bottom is black. */
export function drawMel(canvas, mel, dark = 0.17) {
  const { width, height } = canvas;
  const image = new ImageData(width, height);
  mel.forEach((value, k) => {
    const place = 4 * ((height - 1 - Math.floor(k / width)) * width + (k % width));
    image.data.set([...colour(((value + 1) / 2 - dark) / (1 - dark)), 255], place);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Bytes (side, side, 3) on a canvas. */
export function drawSquare(canvas, square) {
  const image = new ImageData(canvas.width, canvas.height);
  for (let k = 0; k < square.length / 3; k++) image.data.set([...square.subarray(3 * k, 3 * k + 3), 255], 4 * k);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Mono sound in [-1, 1] as a WAV file of 16-bit samples. */
export function wavOf(sound, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  text(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, rate, 4], [28, 2 * rate, 4], [32, 2, 2], [34, 16, 2], [40, 2 * sound.length, 4]].forEach(
    ([at, value, bytes]) => (bytes === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true)));
  text(36, "data");
  sound.forEach((value, n) => view.setInt16(44 + 2 * n, Math.round(32767 * Math.min(1, Math.max(-1, value))), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}
