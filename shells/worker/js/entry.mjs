// The Worker's entry. It hands every event to the Rust code in `build/`, waits on its behalf, and
// survives its panics.
//
// The Rust code runs to completion in each call. If it panics, that call throws, and the object is
// reset at once, which undoes the writes of this turn. No other call is affected, because none was
// running. `build/index.js` gives the next call a new wasm instance.

import { DurableObject } from "cloudflare:workers";
import * as inner from "../build/index.js";
import { proofOf } from "./access.mjs";
import { answerQuestion, withoutCors } from "./admin.mjs";
import { pageFile } from "./admin_page.mjs";
import { readAtMost } from "./body.mjs";
import { runEffect } from "./effects.mjs";
import { deliverAll } from "./fanout.mjs";
import { writePoints } from "./metrics.mjs";
import { streamPages } from "./pages.mjs";
import { isLive, serveLive } from "./reader.mjs";
import { release } from "./release.mjs";

/** @import { Effect, Incoming, Router, StreamObject as Inner } from "../build/index.js" */

/**
 * A response without the headers that the router adds, and what is known about its origin.
 *
 * @typedef {object} Answered
 * @property {Response} response
 * @property {string} [cache] The outcome of the cache: hit, miss or bypass.
 * @property {number} [cacheMs]
 * @property {boolean} [isTimed]
 */

// Read at the start, because the Rust code may have panicked when they are needed.
const UNAVAILABLE = inner.StreamObject.unavailable();
const LIMITS = inner.StreamObject.bodyLimits();

const unavailable = () => new Response(UNAVAILABLE.body, UNAVAILABLE);

// A body is read in pieces of this size, through one buffer.
const PIECE_BYTES = 256 << 10;

const EMPTY = new Uint8Array();

/**
 * Returns the head of a request as the Rust code reads it: the method, the URL, and the names and
 * values of the headers, each followed by a NUL. None of them contains one.
 *
 * @param {Request} request
 */
function headOf(request) {
  let head = `${request.method}\0${request.url}\0`;
  request.headers.forEach((value, name) => {
    head += `${name}\0${value}\0`;
  });
  return head;
}

/** @param {Request} request */
const announcedBytes = (request) => Number(request.headers.get("Content-Length") ?? Infinity);

/**
 * Gives `incoming` the body piece by piece, as long as it wants more.
 *
 * @param {Request} request
 * @param {ReadableStream<Uint8Array>} body
 * @param {Incoming} incoming
 */
async function receive(request, body, incoming) {
  let missing = announcedBytes(request);
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
 * Reads the rest of a body and discards it, because a client that is still sending could not read
 * its answer otherwise. Stops at the end of the body, at a bound, and when nothing more arrives,
 * because some clients announce a body and then wait for the answer.
 *
 * @param {Request} request
 */
async function drain(request) {
  // A client that sent `Expect` sends no body after a refusal, but would if it were read.
  if (request.body === null || request.headers.has("Expect")) return;
  const reader = request.body.getReader();
  for (let discarded = 0; discarded < LIMITS.drainBytesMax; ) {
    /** @type {number | null} */
    let timer = null;
    /** @type {Promise<undefined>} */
    const silence = new Promise((resolve) => {
      timer = setTimeout(resolve, LIMITS.drainSilenceMs, undefined);
    });
    // If the read fails, the client has disconnected.
    const piece = await Promise.race([reader.read(), silence]).catch(() => undefined);
    clearTimeout(timer);
    if (piece === undefined || piece.done) return;
    discarded += piece.value.byteLength;
  }
}

/**
 * What the Rust code asks for during a call. The Rust code calls these methods. If this code called
 * the Rust code instead, each call would make several objects that watch for a panic.
 */
class Asked {
  commits = 0;
  /** @type {Effect[]} */
  effects = [];
  /** @type {{ text: string, waits: boolean }[]} */
  written = [];

  commit() {
    this.commits += 1;
  }

  /**
   * @param {string} text
   * @param {boolean} waits
   */
  points(text, waits) {
    this.written.push({ text, waits });
  }

  /** @param {Effect} effect */
  effect(effect) {
    this.effects.push(effect);
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
    this.asked = new Asked();
    // Counted here, because after a panic anywhere in the isolate the Rust code begins anew.
    this.requests = 0;
    this.inner = new inner.StreamObject(context, env, this.asked);
  }

  /**
   * Calls the Rust code, and begins the effects that it asks for.
   *
   * @template T
   * @param {(object: Inner) => T} call
   * @returns {T}
   */
  #run(call) {
    try {
      const result = call(this.inner);
      const { commits, effects, written } = this.asked;
      if (commits > 0) {
        this.asked.commits = 0;
        this.ctx.waitUntil(this.#endCommits(commits));
      }
      if (effects.length > 0) {
        this.asked.effects = [];
        this.ctx.waitUntil(this.#runEffects(effects));
      }
      if (written.length > 0) {
        this.asked.written = [];
        this.ctx.waitUntil(writePoints(written, this.env.METRICS, this.ctx.storage));
      }
      return result;
    } catch (error) {
      // An error thrown through Rust frames leaves their state broken, as a panic does.
      this.ctx.abort("the code has failed");
      throw error;
    }
  }

  /**
   * Waits until commits are durable, and runs the appends that wait for them.
   *
   * @param {number} commits
   */
  async #endCommits(commits) {
    // If it fails, the platform resets the object.
    await this.ctx.storage.sync();
    const areKnown = this.#run((object) => object.commitsEnded(commits));
    // Nobody can answer the requests that waited for them any more.
    if (!areKnown) this.ctx.abort("the code has lost the requests that waited");
  }

  /** @param {Effect[]} effects */
  async #runEffects(effects) {
    // No effect leaves before its turn is durable.
    await this.ctx.storage.sync();
    // Objects of one thread that call each other would hold back the answer to the client.
    await scheduler.wait(0);
    await Promise.all(
      effects.map((effect) =>
        runEffect(effect, this.env, this.inner, (outcome) => this.#run(outcome)),
      ),
    );
  }

  /** @param {Request} request */
  async fetch(request) {
    const result = await this.#answer(request);
    if (result instanceof Response) return result;
    return streamPages(
      result,
      this.env.SEGMENTS,
      (pages) => this.#run((object) => object.readOn(pages)),
      (damaged) => this.#run((object) => object.pageFailure(damaged)),
    );
  }

  /**
   * Most requests are appends with a small body. For these, each promise and each call into the
   * Rust code is a noticeable part of the time.
   *
   * @param {Request} request
   */
  #answer(request) {
    const { body } = request;
    const head = headOf(request);
    if (body === null) return this.#run((object) => object.fetch(head, EMPTY));
    const isSmall = announcedBytes(request) <= LIMITS.wholeBytesMax;
    if (!isSmall) return this.#answerInPieces(request, body, head);
    this.requests = (this.requests + 1) >>> 0;
    const number = this.requests;
    const isAwaited = this.#run((object) => object.awaitBody(number, head));
    if (!isAwaited) return this.#answerHead(request, head);
    return request.arrayBuffer().then(
      (buffer) => {
        const whole = new Uint8Array(buffer);
        return this.#run(
          (object) => object.fetchAwaited(number, whole) ?? object.fetch(head, whole),
        );
      },
      (error) => {
        // The body is incomplete, so nothing is stored.
        this.#run((object) => object.forgetAwaited(number));
        throw error;
      },
    );
  }

  /**
   * Answers a request whose body nobody needs.
   *
   * @param {Request} request
   * @param {string} head
   */
  async #answerHead(request, head) {
    const result = this.#run((object) => object.fetch(head, EMPTY));
    await drain(request);
    return result;
  }

  /**
   * @param {Request} request
   * @param {ReadableStream<Uint8Array>} body
   * @param {string} head
   */
  async #answerInPieces(request, body, head) {
    const incoming = this.#run((object) => object.receive(head));
    if (incoming === undefined) return this.#answerHead(request, head);
    try {
      await receive(request, body, incoming);
      const isTaken = incoming.isWanted();
      const result = this.#run((object) => object.fetchWithBody(head, incoming));
      if (!isTaken) await drain(request);
      return result;
    } finally {
      release(incoming);
    }
  }

  alarm() {
    this.#run((object) => object.alarm());
  }

  // Subscribers send no messages, so there is no handler for them.
  /** @param {WebSocket} subscriber */
  webSocketClose(subscriber) {
    this.#run((object) => object.webSocketClose(subscriber));
  }

  /** @param {WebSocket} subscriber */
  webSocketError(subscriber) {
    this.#run((object) => object.webSocketClose(subscriber));
  }
}

/** @type {Router | undefined} */
let router;

/**
 * Returns the copy for the cache, without the headers that belong to one request.
 *
 * @param {Response} response
 */
function forAll(response) {
  const copy = new Response(response.body, response);
  copy.headers.delete("Server-Timing");
  return copy;
}

/**
 * Looks into the cache first, and stores the object's answer there. `cache` of the result says
 * whether it was a hit, a miss or a bypass. If the cache fails, the object answers as if there were
 * no cache.
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
    console.error("the cache could not be read", error);
    return { response: await ask(), cache: "bypass", cacheMs: Date.now() - began };
  }
  const cacheMs = Date.now() - began;
  if (kept !== undefined) return { response: kept, cache: "hit", cacheMs };
  const response = await ask();
  if (router.mayKeep(response.status, response.headers.get("Cache-Control") ?? "")) {
    const keeping = caches.default.put(url, forAll(response.clone()));
    context.waitUntil(
      keeping.catch((error) => console.error("the cache could not be written", error)),
    );
  }
  return { response, cache: "miss", cacheMs };
}

/**
 * Returns the answer of the request's stream, or of the router. A plain response is complete.
 *
 * @param {Request} request
 * @param {Env} env
 * @param {ExecutionContext} context
 * @returns {Promise<Response | Answered>}
 */
function routed(request, env, context) {
  router ??= new inner.Router(env);
  const head = headOf(request);
  const first = router.route(request, head);
  return first instanceof Promise ? first : followed(first, request, head, env, context, router);
}

/**
 * Does what the router has decided about a request.
 *
 * @param {Exclude<ReturnType<Router["route"]>, Promise<Response>>} first
 * @param {Request} request
 * @param {string} head
 * @param {Env} env
 * @param {ExecutionContext} context
 * @param {Router} router
 * @returns {Promise<Response | Answered>}
 */
async function followed(first, request, head, env, context, router) {
  const proven =
    !("assertion" in first)
      ? first
      : router.routeProven(request, head, await proofOf(first.assertion, router));
  const to =
    proven instanceof Promise || !("bodyBytesMax" in proven)
      ? proven
      : router.routeWithBody(head, await readAtMost(request, proven.bodyBytesMax));
  if (to instanceof Promise) return to;
  if (to.page !== undefined) return pageFile(request.method, to.page, env.ASSETS);
  if (to.isAdmin) {
    if (to.answer !== undefined) await drain(request);
    const response =
      to.question === undefined
        ? (to.answer ?? (await to.asked))
        : await answerQuestion(to.question, head, env, router);
    return withoutCors(response);
  }
  if (to.answer !== undefined) {
    await drain(request);
    return { response: to.answer };
  }
  const ask = () => to.stub.fetch(to.request);
  const answered =
    to.cache === undefined
      ? { response: await ask() }
      : await throughCache(to.cache, ask, router, context);
  return { ...answered, isTimed: to.isTimed };
}

/**
 * Returns the response with the headers that the router adds: CORS, `X-Cache` and `Server-Timing`.
 *
 * @param {Request} request
 * @param {Answered} answered
 * @param {number} began
 */
function finished(request, { response, cache, cacheMs, isTimed }, began) {
  const last = new Response(response.body, response);
  const origin = request.headers.get("Origin") ?? undefined;
  const pairs = router?.crossOrigin(request.method, origin) ?? [];
  for (const [name, value] of pairs) last.headers.set(name, value);
  if (cache !== undefined) last.headers.set("X-Cache", cache);
  if (isTimed) {
    if (cache !== undefined) {
      last.headers.append("Server-Timing", `cache;desc=${cache};dur=${cacheMs}`);
    }
    last.headers.append("Server-Timing", `edge;dur=${Date.now() - began}`);
  }
  return last;
}

/** @type {ExportedHandler<Env>} */
export default {
  async fetch(request, env, context) {
    const began = Date.now();
    /** @type {Answered} */
    let answered;
    try {
      const first = await routed(request, env, context);
      if (first instanceof Response) return first;
      answered = first;
      if (isLive(answered.response)) {
        const connect = async (/** @type {Request} */ request) => {
          const next = await routed(request, env, context);
          return next instanceof Response ? next : next.response;
        };
        const response = await serveLive(request, answered.response, connect);
        answered = { response, cache: answered.cache };
      }
    } catch (error) {
      console.error("a request failed", error);
      answered = { response: unavailable() };
    }
    return finished(request, answered, began);
  },
  async queue(batch, env) {
    router ??= new inner.Router(env);
    await deliverAll(batch, env, router);
  },
};
