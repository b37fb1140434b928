// The Worker's entry: passes every event to the Rust code in `build/`, and guards against its panics.
//
// A panic aborts the wasm instance that all objects of this isolate share: whatever waits for it would wait for ever, and what
// the object wrote before it would be committed. So when the instance is poisoned, everything that waits is told at once,
// and each object concerned is reset, which undoes the turn that it is in.

import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
import * as inner from "./build/index.js";
import { hold } from "./live.mjs";

class Poisoned extends Error {}

// Taken while the code is whole.
const UNAVAILABLE = JSON.parse(inner.StreamObject.unavailable());

const state = globalThis.__worker_init_state;
const waiting = new Set();
let poisoned = state.criticalError;

Object.defineProperty(state, "criticalError", {
  configurable: true,
  get: () => poisoned,
  set(value) {
    poisoned = value;
    if (!value) return;
    const all = [...waiting];
    waiting.clear();
    for (const reject of all) reject(new Poisoned("the code has failed and is being restarted"));
  },
});

// A JavaScript exception that tore through Rust frames ends here, and leaves the instance as broken as a panic does.
addEventListener("error", (event) => {
  console.error("uncaught", event.error);
  state.criticalError = true;
});

/** Calls into the Rust code; rejects at once when its instance is poisoned while the call is under way. */
function guarded(call) {
  return new Promise((resolve, reject) => {
    waiting.add(reject);
    const settle = (then) => (value) => {
      waiting.delete(reject);
      then(value);
    };
    try {
      Promise.resolve(call()).then(settle(resolve), settle(reject));
    } catch (error) {
      settle(reject)(error);
    }
  });
}

export class StreamObject extends DurableObject {
  constructor(context, env) {
    super(context, env);
    this.inner = new inner.StreamObject(context, env);
  }

  async #guarded(call) {
    try {
      return await guarded(call);
    } catch (error) {
      if (error instanceof Poisoned || error instanceof WebAssembly.RuntimeError) this.ctx.abort("the code has failed");
      throw error;
    }
  }

  fetch(request) {
    return this.#guarded(() => this.inner.fetch(request));
  }

  alarm() {
    return this.#guarded(() => this.inner.alarm());
  }

  // Readers send nothing over their lines, so that there is no handler for messages.
  webSocketClose() {
    return this.#guarded(() => this.inner.webSocketClose());
  }

  webSocketError() {
    return this.#guarded(() => this.inner.webSocketClose());
  }
}

export default class extends WorkerEntrypoint {
  constructor(context, env) {
    super(context, env);
    this.inner = new inner.default(context, env);
  }

  async fetch(request) {
    const dial = (request) => guarded(() => this.inner.fetch(request));
    try {
      const response = await dial(request);
      return response.headers.has("Stream-Line") ? await hold(request, response, dial) : response;
    } catch (error) {
      console.error("a request failed", error);
      return new Response(UNAVAILABLE.body, { status: 503, headers: UNAVAILABLE.headers });
    }
  }
}
