/** The worker as promises: `ask` for a sound, `cancel` what was asked. */
import { Cancelled, Refusal } from "./refusal.js";

/** Whether this browser computes what the networks need: WebAssembly with SIMD. */
export function canCompute() {
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
  return typeof WebAssembly === "object" && typeof Worker === "function" && typeof OffscreenCanvas === "function"
    && WebAssembly.validate(new Uint8Array(module));
}

export class Client {
  constructor() {
    this.asked = new Map(); // by number: what to do with what the worker says
    this.count = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#heard(data);
    this.worker.onerror = (event) => {
      this.broken = `the work could not begin (${event.message || "a file of the page is missing"}): reload the page`;
      for (const [id] of this.asked) this.#heard({ id, kind: "fault", text: this.broken });
    };
  }

  #heard({ id, kind, text, ...more }) {
    const request = this.asked.get(id);
    if (!request) return;
    if (!["sound", "fault", "cancelled"].includes(kind)) return request.tell(kind, { text, ...more });
    this.asked.delete(id);
    if (kind === "sound") request.give(more);
    else request.fail(kind === "fault" ? new Refusal(text) : new Cancelled("cancelled"));
  }

  /** Load networks before they are needed. */
  load(networks) {
    this.worker.postMessage({ kind: "load", networks });
  }

  /**
   * A sound: { sound, mel, embedding, seconds }, for { world, words or picture, seed, steps }.
   * `tell(kind, what)` hears of progress, guesses and remarks on the way.
   */
  ask(request, tell = () => {}) {
    if (this.broken) return Promise.reject(new Refusal(this.broken));
    const id = ++this.count;
    return new Promise((give, fail) => {
      this.asked.set(id, { give, fail, tell });
      this.worker.postMessage({ ...request, kind: "make", id });
    });
  }

  /** Stop everything that was asked for. */
  cancel() {
    this.worker.postMessage({ kind: "cancel", id: this.count });
  }
}
