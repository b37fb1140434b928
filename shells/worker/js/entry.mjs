// The Worker's entry: hands every event to the Rust code in `build/`, does the waiting for it, and survives its panics.
//
// The Rust code runs to completion in each call. When it panics, that call throws, and the object is reset at once: what it has
// written in this turn is undone, and nobody else was in the middle of anything. The next call gets a new wasm instance,
// which `build/index.js` sees to.

import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
import * as inner from "../build/index.js";
import { runEffect } from "./effects.mjs";
import { streamPages } from "./pages.mjs";
import { isLive, serveLive } from "./reader.mjs";
import { release } from "./release.mjs";

/** @import { Effect, Incoming, Router, StreamObject as Inner } from "../build/index.js" */

/**
 * A response, and what is known of how it came about.
 *
 * @typedef {object} Answered
 * @property {Response} response
 * @property {string} [cache] What came of the cache: hit, miss or bypass.
 * @property {number} [cacheMs]
 * @property {boolean} [isTimed]
 */

// Taken while the code is whole.
const UNAVAILABLE = inner.StreamObject.unavailable();
const DRAINING = inner.StreamObject.draining();

const unavailable = () => new Response(UNAVAILABLE.body, UNAVAILABLE);

// The platform hands over a body in pieces of this size, through one buffer.
const PIECE_BYTES = 256 << 10;

/**
 * Gives `incoming` the body piece by piece, as far as it wants it.
 *
 * @param {Request} request
 * @param {ReadableStream<Uint8Array>} body
 * @param {Incoming} incoming
 */
async function receive(request, body, incoming) {
  const announced = request.headers.get("Content-Length");
  let missing = announced === null ? Infinity : Number(announced);
  const reader = body.getReader({ mode: "byob" });
  let piece = new Uint8Array(Math.min(missing, PIECE_BYTES));
  while (missing > 0 && incoming.isWanted()) {
    const { done, value } = await reader.readAtLeast(Math.min(missing, piece.byteLength), piece);
    if (value !== undefined) {
      incoming.take(value);
      missing -= value.byteLength;
      piece = new Uint8Array(value.buffer);
    }
    if (done) break;
  }
  reader.releaseLock();
}

/**
 * Reads what is left of a body and throws it away: a client that is still sending could not read its answer otherwise.
 * Ends where the body does, at a bound, or when nothing more comes, because some announce a body and wait for the answer.
 *
 * @param {Request} request
 */
async function drain(request) {
  // Who asks first sends nothing after a refusal, and reading would invite it.
  if (request.body === null || request.headers.has("Expect")) return;
  const reader = request.body.getReader();
  for (let discarded = 0; discarded < DRAINING.bytesMax; ) {
    /** @type {number | null} */
    let timer = null;
    /** @type {Promise<undefined>} */
    const silence = new Promise((resolve) => {
      timer = setTimeout(resolve, DRAINING.silenceMs, undefined);
    });
    // A client that is gone needs no answer.
    const piece = await Promise.race([reader.read(), silence]).catch(() => undefined);
    clearTimeout(timer);
    if (piece === undefined || piece.done) return;
    discarded += piece.value.byteLength;
  }
}

/** @extends {DurableObject<Env>} */
export class StreamObject extends DurableObject {
  /**
   * @param {DurableObjectState} context
   * @param {Env} env
   */
  constructor(context, env) {
    super(context, env);
    this.inner = new inner.StreamObject(context, env);
  }

  /**
   * Calls into the Rust code, and begins the effects that come of it.
   *
   * @template T
   * @param {(object: Inner) => T} call
   * @returns {T}
   */
  #run(call) {
    try {
      const result = call(this.inner);
      const effects = this.inner.effects();
      if (effects.length > 0) this.ctx.waitUntil(this.#runEffects(effects));
      return result;
    } catch (error) {
      // Anything that is thrown through Rust frames leaves them as a panic would.
      this.ctx.abort("the code has failed");
      throw error;
    }
  }

  /** @param {Effect[]} effects */
  async #runEffects(effects) {
    // No effect leaves before its turn is durable.
    await this.ctx.storage.sync();
    await Promise.all(
      effects.map((effect) => runEffect(effect, this.env, this.inner, (outcome) => this.#run(outcome))),
    );
  }

  /** @param {Request} request */
  async fetch(request) {
    const result = await this.#fetch(request);
    if (result instanceof Response) return result;
    return streamPages(
      result,
      this.env.SEGMENTS,
      (pages) => this.#run((object) => object.readOn(pages)),
      (damaged) => this.#run((object) => object.pageFailure(damaged)),
    );
  }

  /** @param {Request} request */
  async #fetch(request) {
    const { body } = request;
    const incoming = body === null ? undefined : this.#run((object) => object.receive(request));
    if (body === null || incoming === undefined) {
      const result = this.#run((object) => object.fetch(request));
      await drain(request);
      return result;
    }
    try {
      // When the body breaks off, this throws, and nothing of it is stored.
      await receive(request, body, incoming);
      const isTaken = incoming.isWanted();
      const result = this.#run((object) => object.fetchWithBody(request, incoming));
      if (!isTaken) await drain(request);
      return result;
    } finally {
      release(incoming);
    }
  }

  alarm() {
    this.#run((object) => object.alarm());
  }

  // Readers send nothing over their lines, so that there is no handler for messages.
  /** @param {WebSocket} line */
  webSocketClose(line) {
    this.#run((object) => object.webSocketClose(line));
  }

  /** @param {WebSocket} line */
  webSocketError(line) {
    this.#run((object) => object.webSocketClose(line));
  }
}

/** @type {Router | undefined} */
let router;

/**
 * A copy that the cache keeps: for everybody, at any time.
 *
 * @param {Response} response
 */
function forAll(response) {
  const copy = new Response(response.body, response);
  copy.headers.delete("Server-Timing");
  return copy;
}

/**
 * Asks the cache first, and tells it the answer. The result says in `cache` what came of it: hit, miss or bypass. When the cache
 * fails, the object answers as if there were none.
 *
 * @param {string | null} url
 * @param {() => Promise<Response>} ask
 * @param {Router} router
 * @param {ExecutionContext} context
 * @returns {Promise<Answered>}
 */
async function throughCache(url, ask, router, context) {
  if (url === null) return { response: await ask(), cache: "bypass", cacheMs: 0 };
  const began = Date.now();
  let kept;
  try {
    kept = await caches.default.match(url);
  } catch (error) {
    console.error("the cache was not asked", error);
    return { response: await ask(), cache: "bypass", cacheMs: Date.now() - began };
  }
  const cacheMs = Date.now() - began;
  if (kept !== undefined) return { response: kept, cache: "hit", cacheMs };
  const response = await ask();
  if (router.mayKeep(response.status, response.headers.get("Cache-Control") ?? "")) {
    const keeping = caches.default.put(url, forAll(response.clone()));
    context.waitUntil(keeping.catch((error) => console.error("the cache was not told", error)));
  }
  return { response, cache: "miss", cacheMs };
}

/**
 * The response of the request's stream, or the router's own.
 *
 * @param {Request} request
 * @param {Env} env
 * @param {ExecutionContext} context
 * @returns {Promise<Answered>}
 */
async function routed(request, env, context) {
  router ??= new inner.Router(env);
  const to = router.route(request);
  if (to.answer !== undefined) {
    await drain(request);
    return { response: to.answer };
  }
  const ask = () => to.stub.fetch(to.request);
  const answered = to.cache === undefined ? { response: await ask() } : await throughCache(to.cache, ask, router, context);
  return { ...answered, isTimed: to.isTimed };
}

/**
 * The response with what it says beside the answer: to browsers of other pages, of the cache, and of times.
 *
 * @param {Request} request
 * @param {Answered} answered
 * @param {number} began
 */
function finished(request, { response, cache, cacheMs, isTimed }, began) {
  const last = new Response(response.body, response);
  const pairs = router?.crossOrigin(request.headers.get("Origin") ?? undefined) ?? [];
  for (const [name, value] of pairs) last.headers.set(name, value);
  if (cache !== undefined) last.headers.set("X-Cache", cache);
  if (isTimed) {
    if (cache !== undefined) last.headers.append("Server-Timing", `cache;desc=${cache};dur=${cacheMs}`);
    last.headers.append("Server-Timing", `edge;dur=${Date.now() - began}`);
  }
  return last;
}

/** @extends {WorkerEntrypoint<Env>} */
export default class extends WorkerEntrypoint {
  /** @param {Request} request */
  async fetch(request) {
    const began = Date.now();
    /** @type {Answered} */
    let answered;
    try {
      answered = await routed(request, this.env, this.ctx);
      if (isLive(answered.response)) {
        const dial = async (/** @type {Request} */ request) =>
          (await routed(request, this.env, this.ctx)).response;
        const response = await serveLive(request, answered.response, dial);
        answered = { response, cache: answered.cache };
      }
    } catch (error) {
      console.error("a request failed", error);
      answered = { response: unavailable() };
    }
    return finished(request, answered, began);
  }
}
