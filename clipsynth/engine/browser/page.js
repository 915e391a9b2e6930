/** The page: what a user sets, and what is shown of the work. `window.clipsynth.ask` is the same for scripts. */
import { canCompute, Client } from "./client.js";
import { Cancelled } from "./refusal.js";
import { drawMel, drawSquare, wavOf } from "./show.js";

const at = (id) => document.getElementById(id);
const form = at("form");
let client = null;
let about = null;

function say(text, fault = "") {
  at("said").textContent = text;
  at("fault").textContent = fault;
  at("fault").hidden = !fault;
}

function fail(text) {
  say("", text[0].toUpperCase() + text.slice(1));
}

function busy(working) {
  at("make").disabled = at("another").disabled = working;
  at("cancel").disabled = at("bar").hidden = !working;
}

/** The words and steps that the chosen world offers. */
function showWorld() {
  const world = about.worlds[at("world").value];
  at("known").replaceChildren(...world.known.map((word) => {
    const [item, button] = ["li", "button"].map((kind) => document.createElement(kind));
    Object.assign(button, { type: "button", textContent: word, onclick: () => (at("words").value = word) });
    item.append(button);
    return item;
  }));
  at("steps").replaceChildren(...Object.keys(world.steps).map((steps) => new Option(steps, steps)));
  at("steps").value = world.usual;
  client.load(["words", at("world").value, "magnitude", `${at("world").value}-memory`].filter((name) => name in about.networks));
}

function choosePicture(file) {
  at("words").disabled = Boolean(file);
  at("chosen").hidden = !file;
  at("seen").getContext("2d").clearRect(0, 0, 64, 64);
  if (!file) at("picture").value = "";
}

/** What the form asks for. */
function request() {
  const picture = at("picture").files[0] ?? null;
  const seed = Math.trunc(Number(at("seed").value)) || 0;
  return { world: at("world").value, steps: Number(at("steps").value), seed, ...(picture ? { picture } : { words: at("words").value }) };
}

function show(kind, what) {
  if (kind === "progress") {
    at("bar").value = what.done;
    at("said").textContent = `${what.text[0].toUpperCase()}${what.text.slice(1)} …`;
  }
  if (kind === "guess") drawMel(at("mel"), what.mel);
  if (kind === "seen") drawSquare(at("seen"), what.square);
}

async function make() {
  const asked = request();
  const remarks = [];
  busy(true);
  say("Loading …");
  at("bar").value = 0;
  at("mel").scrollIntoView({ block: "nearest" }); // on a phone it lies below the form
  try {
    const found = await client.ask(asked, (kind, what) => (kind === "remark" ? remarks.push(what.text) : show(kind, what)));
    finish(asked, found, remarks);
  } catch (error) {
    if (error instanceof Cancelled) say("Cancelled.");
    else fail(error.message);
  }
  busy(false);
}

function finish(asked, found, remarks) {
  const name = asked.picture ? "the picture" : `“${asked.words.trim()}”`;
  const [player, save] = [at("player"), at("save")];
  if (save.href) URL.revokeObjectURL(save.href);
  player.src = save.href = URL.createObjectURL(wavOf(found.sound, about.rate));
  const word = asked.picture ? "picture" : asked.words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  save.download = `clipsynth-${word}-${asked.seed}.wav`;
  save.hidden = false;
  at("mel").setAttribute("aria-label", `Spectrogram of the sound for ${name}, seed ${asked.seed}`);
  say([`${name[0].toUpperCase()}${name.slice(1)}, seed ${asked.seed}: made in ${found.seconds.toFixed(1)} seconds.`, ...remarks].join(" "));
  player.play().catch(() => {}); // where the browser wants a gesture, its own button plays
}

function listen() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    make();
  });
  at("another").onclick = () => {
    at("seed").value = (Math.trunc(Number(at("seed").value)) || 0) + 1;
    make();
  };
  at("cancel").onclick = () => client.cancel();
  at("world").onchange = showWorld;
  at("picture").onchange = () => choosePicture(at("picture").files[0]);
  at("without").onclick = () => choosePicture(null);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    at("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind !== "drop" || !event.dataTransfer.files.length) return;
      at("picture").files = event.dataTransfer.files;
      choosePicture(at("picture").files[0]);
    });
  }
}

async function begin() {
  if (!canCompute()) return fail("this browser has no WebAssembly with SIMD: use a current Firefox, Chrome, Edge or Safari");
  try {
    about = await (await fetch("about.json")).json();
  } catch {
    return fail("about.json could not be loaded: is the page's folder complete?");
  }
  client = new Client();
  window.clipsynth = { ask: (asked, tell) => client.ask(asked, tell), cancel: () => client.cancel() };
  at("world").replaceChildren(...Object.entries(about.worlds).map(([name, world]) => new Option(world.title, name)));
  at("about").textContent = about.told;
  showWorld();
  listen();
  say("Ready: say what should sound.");
}

document.querySelectorAll("button").forEach((button) => (button.disabled = true));
begin().then(() => {
  if (client) busy(false);
  at("without").disabled = !client;
});
