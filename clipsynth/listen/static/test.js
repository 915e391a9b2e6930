"use strict";
(() => {
const design = JSON.parse(document.getElementById("design").textContent);
const rules = design.rules, texts = design.texts, KEPT = `listening-${design.digest}`;
const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };
const trouble = (text) => { $("trouble").textContent = text; };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const hex = (bytes) => [...crypto.getRandomValues(new Uint8Array(bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");

function el(tag, more = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(more)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...inside.filter((part) => part !== null && part !== undefined));
  return made;
}
const paragraphs = (all) => [].concat(all).map((text) => el("p", {}, text));

/* What is kept in the browser, so that a reload goes on where it was. */
const LATE = "You were here before, but too long ago: the test begins anew.";
let state = null, leavable = true, late = false;
function keep() {
  try { localStorage.setItem(KEPT, JSON.stringify(state)); } catch { leavable = false; }
}
function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT));
    if (!found || typeof found.started !== "number" || !Array.isArray(found.votes)) return null;
    if (Date.now() - found.started <= rules.max_age_hours * 3600e3) return found;
    localStorage.removeItem(KEPT);
    late = true;
  } catch { /* nothing kept, or nothing can be */ }
  return null;
}

/* The server, where there is one; a static host has none. */
async function ask(path, body) {
  const how = { method: body === undefined ? "GET" : "POST", headers: {}, cache: "no-store", credentials: "omit" };
  if (state?.token) how.headers.Authorization = `Bearer ${state.token}`;
  if (body !== undefined) { how.headers["Content-Type"] = "application/json"; how.body = JSON.stringify(body); }
  return fetch(path, how);
}
async function insist(path, body) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 15000)) {
    let answer = null;
    try { answer = await ask(path, body); } catch { /* no connection */ }
    if (answer && answer.status < 500 && answer.status !== 429) { trouble(""); return answer; }
    trouble("The server cannot be reached just now. Trying again …");
    await pause(Math.max(wait, 1000 * (Number(answer?.headers.get("Retry-After")) || 0)));
  }
}
let sending = null;
function send() {
  if (!design.server || sending) return sending;
  sending = (async () => {
    while (state.unsent.length) {
      const some = state.unsent.slice(0, 6), ids = new Set(some.map((vote) => vote.vote_id));
      const answer = await insist("api/votes", { votes: some });
      if (!answer.ok && answer.status !== 409) { await refused(answer); return; }
      state.unsent = state.unsent.filter((vote) => !ids.has(vote.vote_id));
      keep();
    }
  })().finally(() => { sending = null; });
  return sending;
}
async function refused(answer) {
  const reason = (await answer.text()).slice(0, 200);
  trouble(`The server did not take this (${answer.status} ${reason}). Please tell those who run the test.`);
  if (answer.status === 401 || answer.status === 410) { try { localStorage.removeItem(KEPT); } catch { /* none */ } }
}

/* Sounds: fetched and checked before the first trial, decoded when they are needed. */
const files = new Map();
let context = null, loading = null;
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
function crc(name, data) {
  let sum = 0xffffffff;
  for (const byte of new TextEncoder().encode(name)) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  for (const byte of data) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
async function load(name, about) {
  for (let attempt = 0, wait = 300; ; attempt++, wait *= 2) {
    try {
      const answer = await ask(`sounds/${name}.wav`);
      if (answer.status === 429) await pause(1000 * (Number(answer.headers.get("Retry-After")) || 1));
      if (answer.ok) {
        const data = await answer.arrayBuffer();
        if (data.byteLength === about.bytes && crc(name, new Uint8Array(data)) === about.crc) { files.set(name, data); return; }
      }
    } catch { /* no connection */ }
    if (attempt === 7) throw new Error("sound");
    await pause(Math.min(wait, 8000));
  }
}
function loadAll() {
  loading ??= (async () => {
    const todo = [...new Set(every().flatMap((trial) => [trial.left, trial.right]))].filter((name) => !files.has(name));
    const total = todo.length;
    const worker = async () => {
      for (let name = todo.shift(); name; name = todo.shift()) {
        await load(name, state.sounds[name]);
        $("main").querySelectorAll(".loaded").forEach((bar) => { bar.max = total; bar.value = total - todo.length; });
      }
    };
    await Promise.all([worker(), worker(), worker()]);
  })().catch((error) => { loading = null; throw error; });
  return loading;
}
async function unlock() {
  context ??= new (window.AudioContext || window.webkitAudioContext)();
  await context.resume();
}
const decoded = async (name) => context.decodeAudioData(files.get(name).slice(0));

/* One sound at a time. */
let playing = null;
function stop() { playing?.halt(); }
function play(buffer, tick, ended) {
  stop();
  context.resume();
  const node = new AudioBufferSourceNode(context, { buffer });
  node.connect(context.destination);
  const began = context.currentTime;
  const heard = () => Math.min(buffer.duration, Math.max(0, context.currentTime - began));
  const timer = setInterval(() => tick(heard()), 50);
  let over = false;
  const finish = (whole) => {
    if (over) return;
    over = true; playing = null; clearInterval(timer); node.disconnect();
    ended(whole ? buffer.duration : heard());
  };
  node.onended = () => finish(true);
  node.start();
  playing = { halt: () => { const part = heard(); node.onended = null; try { node.stop(); } catch { /* over */ } finish(part >= buffer.duration); } };
}
function soundButton(label, buffer, changed) {
  const told = el("span", {}, "Not heard yet"), bar = el("progress", { max: buffer.duration, value: 0, "aria-label": `${label}, how far it has played` });
  const about = { played: 0, reached: 0, get heard() { return about.reached >= rules.heard * buffer.duration; } };
  const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    if (button.getAttribute("aria-pressed") === "true") { stop(); return; }
    play(buffer, (now) => { bar.value = now; }, (now) => {
      about.played += now;
      about.reached = Math.max(about.reached, now);
      bar.value = about.reached;
      button.setAttribute("aria-pressed", "false");
      button.textContent = `Play ${label}`;
      told.textContent = about.heard ? "Heard" : "Not heard to the end";
      changed();
    });
    button.setAttribute("aria-pressed", "true");
    button.textContent = `Stop ${label}`;
  } }, `Play ${label}`);
  return { about, button, box: el("div", { className: "sound" }, button, bar, told) };
}

/* Screens. */
const every = () => [...state.practice, ...state.trials];
function screen(title, ...inside) {
  stop();
  const head = el("h1", { tabIndex: -1 }, title);
  $("main").replaceChildren(head, ...inside);
  const at = state ? state.at : 0, total = state ? every().length : 0;
  $("done").hidden = !state;
  $("done").max = total || 1;
  $("done").value = at;
  $("place").textContent = "";
  say("");
  window.scrollTo(0, 0);
  head.focus();
}
const go = (label, onclick, more = {}) => el("button", { type: "button", className: "go", onclick, ...more }, label);
const next = (...inside) => el("div", { className: "next" }, ...inside);

function consent() {
  screen(texts.title, ...paragraphs(texts.consent), next(go("I agree, begin", async (event) => {
    event.target.disabled = true;
    try { await unlock(); await begin(); sound(); }
    catch (error) { event.target.disabled = false; if (error.message) trouble(error.message); }
  })));
  if (late) say(LATE);
}
async function begin() {
  if (location.protocol === "file:") throw new Error("A browser does not let a page that was opened from the disk read its sounds: put the folder on a web server, or run `clipsynth listen serve`.");
  if (design.server) {
    const answer = await insist("api/start", { consent: true });
    if (!answer.ok) { await refused(answer); throw new Error(""); }
    const given = await answer.json();
    state = { token: given.listener, slot: given.slot, trials: given.trials, sounds: given.sounds };
  } else {
    const asked = Number(new URLSearchParams(location.search).get("slot") ?? NaN);
    const count = design.slots.length, draw = crypto.getRandomValues(new Uint32Array(1))[0] % count;
    const slot = Number.isInteger(asked) && asked >= 0 && asked < count ? asked : draw;
    state = { listener: hex(16), slot, trials: design.slots[slot], sounds: design.sounds };
  }
  Object.assign(state, { practice: design.practice, started: Date.now(), at: 0, stage: "sound", attempts: 0, headphones: null, code: null, votes: [], unsent: [] });
  keep();
}
function sound() {
  state.stage = "sound"; keep();
  const ready = go("Go on", () => (rules.headphones === "off" ? practice() : headphones()), { disabled: true });
  const volume = el("button", { type: "button", disabled: true }, "Play a sound");
  const bar = el("progress", { className: "loaded", max: 1, value: 0, "aria-label": "Sounds that are loaded" });
  screen("Sound", ...paragraphs(texts.volume), el("p", {}, bar), next(volume, ready));
  say("The sounds are being loaded …");
  loadAll().then(async () => {
    const buffer = await decoded(every()[0].left);
    say("All sounds are loaded and complete.");
    volume.disabled = false;
    volume.addEventListener("click", () => play(buffer, () => {}, () => { ready.disabled = false; }));
  }, () => {
    say("");
    trouble("Some sounds could not be loaded. Check your connection.");
    ready.replaceWith(go("Try again", () => { trouble(""); sound(); }));
  });
}
function tones(soft, flipped) {
  const rate = context.sampleRate, long = Math.round(rules.tone_seconds * rate), ramp = 0.1 * long;
  const buffer = context.createBuffer(2, 4 * long, rate);
  for (let side = 0; side < 2; side++) {
    const data = buffer.getChannelData(side);
    for (let tone = 0; tone < 3; tone++) {
      const level = 0.25 * (tone === soft ? 0.5 : 1) * (side && tone === flipped ? -1 : 1), start = Math.round(1.5 * tone * long);
      for (let n = 0; n < long; n++) data[start + n] = level * Math.min(1, n / ramp, (long - 1 - n) / ramp) * Math.sin(2 * Math.PI * 200 * n / rate);
    }
  }
  return buffer;
}
function headphones() {
  state.stage = "headphones"; keep();
  let number = 0, right = 0;
  const one = () => {
    const draw = crypto.getRandomValues(new Uint32Array(2)), soft = draw[0] % 3, flipped = (soft + 1 + draw[1] % 2) % 3;
    const form = el("fieldset", { disabled: true }, el("legend", {}, "Which tone is the softest?"));
    const answer = el("div", { className: "choices" });
    const on = go("Next", () => {
      const chosen = form.querySelector(":checked");
      right += Number(Number(chosen.value) === soft);
      number += 1;
      number < rules.headphone_trials ? one() : checked(right);
    }, { disabled: true });
    ["First", "Second", "Third"].forEach((label, place) => answer.append(el("label", {}, el("input", { type: "radio", name: "tone", value: place, onchange: () => { on.disabled = false; } }), label)));
    form.append(answer);
    const button = el("button", { type: "button", onclick: () => { say("Three tones are playing."); play(tones(soft, flipped), () => {}, () => { form.disabled = false; say("You can answer now."); }); } }, "Play three tones");
    screen(`Headphones, ${number + 1} of ${rules.headphone_trials}`, ...(number ? [] : paragraphs(texts.headphones)), next(button), form, next(on));
  };
  one();
}
async function checked(right) {
  state.attempts += 1;
  state.headphones = right;
  keep();
  if (design.server) { const answer = await insist("api/headphones", { right }); if (!answer.ok) { await refused(answer); return; } }
  if (right >= rules.headphone_right || rules.headphones === "note") { practice(); return; }
  if (state.attempts < rules.headphone_attempts) {
    screen("Once more, please", ...paragraphs(texts.headphones_again), next(go("Try again", headphones)));
  } else {
    state.stage = "refused"; keep();
    screen("Thank you", ...paragraphs(texts.headphones_failed));
  }
}
function practice() {
  state.stage = "trials"; keep();
  screen("How it goes", ...paragraphs(texts.instructions), next(go(state.practice.length ? "Practise" : "Begin", forward)));
}
function forward() {
  const at = state.at, all = every();
  if (at >= all.length) { finish(); return; }
  const before = state.practice.length, own = all[at];
  if (at === before && before && !state.begun) {
    state.begun = true; keep();
    screen("Now the test itself", ...paragraphs(texts.begin), next(go("Begin", forward)));
    return;
  }
  const parts = state.trials.map((trial) => trial.criteria.join()), turn = parts.slice(0, at - before + 1).filter((name, n) => n === 0 || name !== parts[n - 1]).length;
  const total = new Set(parts).size;
  if (at >= before && total > 1 && parts[at - before] !== parts[at - before - 1] && state.part !== turn) {
    state.part = turn; keep();
    const asked = design.criteria.filter((c) => own.criteria.includes(c.name)).map((c) => c.question);
    screen(`Part ${turn} of ${total}`, el("p", {}, turn === 1 ? "In this part, each pair comes with this question:" : "The same kind of pairs, in a new order, with another question:"), ...asked.map((text) => el("p", { className: "query" }, text)), next(go("Go on", forward)));
    return;
  }
  trial(own);
}
async function trial(own) {
  const title = state.at < state.practice.length ? `Practice ${state.at + 1} of ${state.practice.length}` : `Pair ${state.at - state.practice.length + 1} of ${state.trials.length}`;
  let both;
  try { await loadAll(); both = await Promise.all([decoded(own.left), decoded(own.right)]); }
  catch { trouble("A sound could not be loaded. Check your connection, then reload the page: your answers are kept."); return; }
  const shown = performance.now(), forms = [];
  let open = false;
  const update = () => {
    if (!open && left.about.heard && right.about.heard) {
      open = true;
      forms.forEach((form) => { form.disabled = false; });
      say("You can choose now. You may listen again as often as you like.");
    }
    on.disabled = !open || forms.some((form) => !form.querySelector(":checked"));
  };
  const left = soundButton("sound A", both[0], update), right = soundButton("sound B", both[1], update);
  for (const criterion of design.criteria.filter((c) => own.criteria.includes(c.name))) {
    const answers = el("div", { className: "choices" });
    [["Sound A", 1], ["No difference", 0.5], ["Sound B", 0]].forEach(([label, value]) => answers.append(el("label", {}, el("input", { type: "radio", name: criterion.name, value, onchange: update }), label)));
    forms.push(el("fieldset", { disabled: true }, el("legend", {}, criterion.question), answers));
  }
  const on = go("Next", () => {
    stop();
    const about = { trial: own.id, seconds: (performance.now() - shown) / 1000, played_left: left.about.played, played_right: right.about.played, position: state.at, at: new Date().toISOString() };
    for (const form of forms) {
      const chosen = form.querySelector(":checked");
      const vote = { vote_id: hex(16), criterion: chosen.name, score: Number(chosen.value), ...about };
      state.votes.push(vote);
      if (design.server) state.unsent.push(vote);
    }
    state.at += 1;
    keep();
    send();
    forward();
  }, { disabled: true });
  const query = own.query ? el("p", { className: "query" }, "The words: ", el("b", {}, `“${own.query}”`)) : null;
  screen(title, ...(query ? [query] : []), el("div", { className: "pair", role: "group", "aria-label": "The two sounds" }, left.box, right.box), ...forms, next(on));
  say("Listen to both sounds to the end; then you can choose.");
  $("place").textContent = `${Math.round(100 * state.at / every().length)} % done`;
}
async function finish() {
  if (design.server && !state.code) {
    screen("Saving …", el("p", {}, "Your last answers are on their way. Please keep this page open."));
    while (state.unsent.length && !$("trouble").textContent.startsWith("The server did not")) await send();
    if (state.unsent.length) return;
    const answer = await insist("api/finish", {});
    if (!answer.ok) { await refused(answer); return; }
    state.code = (await answer.json()).code;
  }
  state.code ??= hex(4).toUpperCase();
  state.stage = "end"; keep();
  end();
}
function end() {
  const result = { design: design.digest, listener: state.listener, slot: state.slot, code: state.code, headphones: state.headphones, started: new Date(state.started).toISOString(), votes: state.votes };
  const code = [el("p", {}, "Your completion code:"), el("p", { className: "code", id: "code" }, state.code)];
  if (design.server) { screen("Thank you", ...paragraphs(texts.end), ...code); say("All answers are saved."); $("done").value = every().length; return; }
  const text = JSON.stringify(result), url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = el("a", { className: "save", href: url, download: `listening-${state.slot}-${state.code}.json` }, "Save the result");
  const copy = el("textarea", { readOnly: true, value: text, "aria-label": "The result as text", id: "result" });
  screen("Thank you", ...paragraphs(texts.end_static), next(link), ...code, el("details", {}, el("summary", {}, "If nothing is saved, copy this text"), copy));
  $("done").value = every().length;
}
function resume() {
  const inside = { end, refused: () => screen("Thank you", ...paragraphs(texts.headphones_failed)) };
  if (inside[state.stage]) { inside[state.stage](); return; }
  screen("Welcome back", el("p", {}, `You had done ${Math.max(0, state.at - state.practice.length)} of ${state.trials.length} pairs. The test goes on where you were.`), next(go("Go on", async () => {
    await unlock();
    send();
    if (state.stage === "sound") { sound(); return; }
    if (state.stage === "headphones") { loadAll().catch(() => {}); headphones(); return; }
    forward();
  })));
}
window.addEventListener("beforeunload", (event) => {
  if (state && state.stage === "trials" && (!leavable || state.unsent.length)) event.preventDefault();
});
state = kept();
if (!state) { consent(); return; }
if (!design.server) { resume(); return; }
insist("api/state").then(async (answer) => {
  if (answer.ok) {
    const given = await answer.json();
    Object.assign(state, { trials: given.trials, sounds: given.sounds, code: given.code ?? state.code });
    resume();
    return;
  }
  try { localStorage.removeItem(KEPT); } catch { /* none */ }
  state = null;
  late = answer.status === 410;
  consent();
});
})();
