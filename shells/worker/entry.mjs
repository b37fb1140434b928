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

const unavailable = () => new Response(UNAVAILABLE.body, { status: 503, headers: UNAVAILABLE.headers });

/** The body of a request: `null` when it has none, `undefined` when it is longer than `bytesMax`. */
async function bodyOf(request, bytesMax) {
  if (request.body === null) return null;
  const announced = request.headers.get("Content-Length");
  if (announced !== null) {
    return Number(announced) > bytesMax ? undefined : new Uint8Array(await request.arrayBuffer());
  }
  const chunks = [];
  let length = 0;
  for await (const chunk of request.body) {
    length += chunk.byteLength;
    if (length > bytesMax) return undefined;
    chunks.push(chunk);
  }
  const body = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.byteLength;
  }
  return body;
}

export class StreamObject extends DurableObject {
  constructor(context, env) {
    super(context, env);
    this.inner = new inner.StreamObject(context, env);
    this.bodyBytesMax = this.inner.bodyBytesMax();
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
    // A body that breaks off rejects here, and nothing of it is stored.
    const body = await bodyOf(request, this.bodyBytesMax);
    const result = this.#run((object) => object.fetch(request, body));
    return result instanceof Response ? result : respond(result, this.env.SEGMENTS);
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

async function routed(request, env) {
  router ??= new inner.Router(env);
  return router.fetch(request);
}

export default class extends WorkerEntrypoint {
  async fetch(request) {
    try {
      const began = Date.now();
      const response = await routed(request, this.env);
      if (response.headers.has("Stream-Line")) {
        return await hold(request, response, (request) => routed(request, this.env));
      }
      return response.headers.has("Server-Timing") ? router.timed(response, Date.now() - began) : response;
    } catch (error) {
      console.error("a request failed", error);
      return unavailable();
    }
  }
}
