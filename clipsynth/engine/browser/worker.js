/** The work, apart from the page: networks by onnxruntime, and what lies between them. */
import * as ort from "./runtime/ort.wasm.min.mjs";
import { Generator } from "./noise.js";
import { planes, squareOf } from "./picture.js";
import { Cancelled, Refusal } from "./refusal.js";
import { dpmSolver } from "./sampler.js";
import { checkQuery, prompt, Tokenizer } from "./tokens.js";
import { Vocoder } from "./vocoder.js";

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that many static hosts do not send

const opened = new Map(); // promises of what was loaded, by address
let [about, tokenizer, vocoder] = [null, null, null];
let stopped = 0; // requests up to this number are cancelled

/** Something that is loaded once; what failed is tried again when it is next asked for. */
function once(name, load) {
  if (!opened.has(name)) {
    opened.set(name, load().catch((error) => {
      opened.delete(name);
      throw error;
    }));
  }
  return opened.get(name);
}

async function fetched(path) {
  let answer;
  try {
    answer = await fetch(new URL(path, import.meta.url));
  } catch {
    throw new Refusal(`${path} could not be loaded: check the connection, then try again`);
  }
  if (!answer.ok) throw new Refusal(`${path} could not be loaded (${answer.status}): is the page's folder complete?`);
  return answer;
}

async function start() {
  about = await (await fetched("about.json")).json();
  tokenizer = new Tokenizer(about.text);
  vocoder = new Vocoder(about.vocoder);
}

function network(name) {
  return once(`networks/${name}.onnx`, async () => {
    const bytes = new Uint8Array(await (await fetched(`networks/${name}.onnx`)).arrayBuffer());
    return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  });
}

/** A network's answer to some arrays, in the order of its inputs. */
async function run(name, ...arrays) {
  const session = await network(name);
  const shapes = about.networks[name].inputs;
  const feeds = Object.fromEntries(session.inputNames.map((input, i) => [input, new ort.Tensor("float32", arrays[i], shapes[i])]));
  const found = await session.run(feeds);
  return found[session.outputNames[0]].data;
}

/** What a request asks for, as a unit embedding of the pictures' space. */
async function embedded({ words, picture, world }, tell) {
  if (picture) {
    const square = await squareOf(picture, about.picture);
    tell("seen", { square });
    return run("sight", planes(square));
  }
  const query = checkQuery(words);
  const sentence = prompt(query, about.worlds[world].prompt);
  for (const text of tokenizer.remarks(query, sentence)) tell("remark", { text });
  const found = await run("words", tokenizer.tokens(sentence));
  return about.worlds[world].bridge === "memory" ? run(`${world}-memory`, found) : found;
}

/** One sound. */
async function make(request) {
  const { id, world, seed, steps } = request;
  const tell = (kind, more) => self.postMessage({ id, kind, ...more });
  const pause = () => new Promise((done) => setTimeout(done)).then(() => {
    if (id <= stopped) throw new Cancelled();
  });
  const began = performance.now();
  await once("about.json", start);
  const table = about.worlds[world].steps[steps];
  const total = table.time.length + 3;
  let done = 0;
  const step = async (text) => {
    tell("progress", { done: done++ / total, text });
    await pause();
  };
  await step("reading the query");
  const embedding = await embedded(request, tell);
  await step("loading the network");
  const denoise = (x, time) => run(world, x, Float32Array.of(time), embedding);
  await network(world);
  const mel = await dpmSolver(table, new Generator("diffusion.sample", seed).normals(about.mels * about.frames), denoise, async (i, guess) => {
    tell("guess", { mel: guess, last: i + 1 === table.time.length });
    await step(`step ${i + 1} of ${table.time.length}`);
  });
  await step("from the spectrogram to sound");
  const logMel = mel.map((value) => ((value + 1) / 2) * (about.high - about.low) + about.low);
  const sound = await vocoder.sound(logMel, await run("magnitude", logMel), pause);
  tell("sound", { sound, mel, embedding, seconds: (performance.now() - began) / 1000 });
}

async function answer(request) {
  try {
    await make(request);
  } catch (error) {
    const known = error instanceof Refusal || error instanceof Cancelled;
    if (!known) console.error(error);
    const text = known ? error.message : `the work stopped (${error.message}): reload the page, or try another browser`;
    self.postMessage({ id: request.id, kind: error instanceof Cancelled ? "cancelled" : "fault", text });
  }
}

let last = Promise.resolve();
self.onmessage = ({ data }) => {
  if (data.kind === "cancel") stopped = Math.max(stopped, data.id);
  else if (data.kind === "load") once("about.json", start).then(() => Promise.all(data.networks.map(network))).catch(() => {}); // told when it is asked for
  else last = last.then(() => answer(data));
};
