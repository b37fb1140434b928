// The Worker's entry: hands every event to the Rust code in `build/`, does the waiting for it, and survives its panics.
//
// The Rust code runs to completion in each call. When it panics, that call throws, and the object is reset at once: what it has
// written in this turn is undone, and nobody else was in the middle of anything. The next call gets a new wasm instance,
// which `build/index.js` sees to.

import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
import * as inner from "./build/index.js";
import { carryOut, respond } from "./cold.mjs";
import { hold } from "./live.mjs";

// Taken while the code is whole.
const UNAVAILABLE = JSON.parse(inner.StreamObject.unavailable());
const [DRAIN_BYTES_MAX, DRAIN_SILENCE_MS] = inner.StreamObject.draining();

const unavailable = () => new Response(UNAVAILABLE.body, { status: 503, headers: UNAVAILABLE.headers });

// The platform hands over a body in pieces of this size, through one buffer.
const PIECE_BYTES = 256 << 10;

/** Gives `incoming` the body piece by piece, as far as it wants it. */
async function receive(request, incoming) {
  const announced = request.headers.get("Content-Length");
  let missing = announced === null ? Infinity : Number(announced);
  const reader = request.body.getReader({ mode: "byob" });
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
 */
async function drain(request) {
  // Who asks first sends nothing after a refusal, and reading would invite it.
  if (request.body === null || request.headers.has("Expect")) return;
  const reader = request.body.getReader();
  for (let discarded = 0; discarded < DRAIN_BYTES_MAX; ) {
    let timer;
    const silence = new Promise((resolve) => {
      timer = setTimeout(resolve, DRAIN_SILENCE_MS, { done: true });
    });
    // A client that is gone needs no answer.
    const { done, value } = await Promise.race([reader.read(), silence]).catch(() => ({ done: true }));
    clearTimeout(timer);
    if (done) return;
    discarded += value.byteLength;
  }
}

export class StreamObject extends DurableObject {
  constructor(context, env) {
    super(context, env);
    this.inner = new inner.StreamObject(context, env);
    // The rows of a segment that is being put.
    this.pieces = {
      begin: (put) => this.inner.beginPut(put),
      next: (put, isFirst) => this.inner.nextPiece(put, isFirst),
    };
  }

  /** Calls into the Rust code, and begins what has come up that has to be waited for. */
  #run(call) {
    try {
      const result = call(this.inner);
      const jobs = this.inner.jobs();
      if (jobs.length > 0) this.ctx.waitUntil(this.#carryOut(jobs));
      return result;
    } catch (error) {
      // Anything that is thrown through Rust frames leaves them as a panic would.
      this.ctx.abort("the code has failed");
      throw error;
    }
  }

  async #carryOut(jobs) {
    // Nothing is told to anyone before it is durable.
    await this.ctx.storage.sync();
    await Promise.all(jobs.map((job) => carryOut(job, this.env, this.pieces, (outcome) => this.#run(outcome))));
  }

  async fetch(request) {
    const incoming = request.body === null ? undefined : this.#run((object) => object.receive(request));
    if (incoming !== undefined) {
      try {
        await receive(request, incoming);
      } catch (error) {
        // The body has broken off, and nothing of it is stored.
        incoming.free();
        throw error;
      }
    }
    const isTaken = incoming?.isWanted();
    const result = this.#run((object) => object.fetch(request, incoming));
    if (!isTaken) await drain(request);
    if (result instanceof Response) return result;
    return respond(result, this.env.SEGMENTS, (pages) => this.#run((object) => object.readOn(pages)));
  }

  alarm() {
    this.#run((object) => object.alarm());
  }

  // Readers send nothing over their lines, so that there is no handler for messages.
  webSocketClose(line) {
    this.#run((object) => object.webSocketClose(line));
  }

  webSocketError(line) {
    this.#run((object) => object.webSocketClose(line));
  }
}

let router;

/** A copy that the cache keeps: for everybody, at any time. */
function forAll(response) {
  const copy = new Response(response.body, response);
  copy.headers.delete("Server-Timing");
  return copy;
}

/**
 * Asks the cache first, and tells it the answer. The result says in `cache` what came of it: hit, miss or bypass. When the cache
 * fails, the object answers as if there were none.
 */
async function throughCache(url, ask, context) {
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

/** The response of the request's stream, or the router's own, and what is known of how it came about. */
async function routed(request, env, context) {
  router ??= new inner.Router(env);
  const to = router.route(request);
  if (to.answer !== undefined) {
    await drain(request);
    return { response: to.answer };
  }
  const ask = () => to.stub.fetch(to.request);
  const answered = to.cache === undefined ? { response: await ask() } : await throughCache(to.cache, ask, context);
  return { ...answered, isTimed: to.isTimed };
}

/** The response with what it says beside the answer: to browsers of other pages, of the cache, and of times. */
function finished(request, { response, cache, cacheMs, isTimed }, began) {
  const last = new Response(response.body, response);
  const pairs = router?.crossOrigin(request.headers.get("Origin") ?? undefined) ?? [];
  for (let index = 0; index < pairs.length; index += 2) last.headers.set(pairs[index], pairs[index + 1]);
  if (cache !== undefined) last.headers.set("X-Cache", cache);
  if (isTimed) {
    if (cache !== undefined) last.headers.append("Server-Timing", `cache;desc=${cache};dur=${cacheMs}`);
    last.headers.append("Server-Timing", `edge;dur=${Date.now() - began}`);
  }
  return last;
}

export default class extends WorkerEntrypoint {
  async fetch(request) {
    const began = Date.now();
    let answered;
    try {
      answered = await routed(request, this.env, this.ctx);
      if (answered.response.headers.has("Stream-Line")) {
        const dial = async (request) => (await routed(request, this.env, this.ctx)).response;
        answered = { response: await hold(request, answered.response, dial), cache: answered.cache };
      }
    } catch (error) {
      console.error("a request failed", error);
      answered = { response: unavailable() };
    }
    return finished(request, answered, began);
  }
}
