// Carries out what a `Tail` decides: one client's SSE response or long-poll, kept going over lines
// to its stream.

import { LIVE_HEAD, Tail } from "./tail.mjs";

/** @import { Answer, Effect, Frame, Head, Input } from "./tail.mjs" */

/** @typedef {(request: Request) => Promise<Response>} Dial */

/**
 * What is for the client.
 *
 * @typedef {object} Client
 * @property {(bytes: Uint8Array) => void} emit
 * @property {(response: Response) => void} answer
 * @property {() => void} end
 */

const decoder = new TextDecoder();
const EMPTY = new Uint8Array();

/**
 * @param {ArrayBuffer} message
 * @returns {Input}
 */
function decodedMessage(message) {
  const length = new DataView(message).getUint32(0, true);
  /** @type {Frame} */
  const frame = JSON.parse(decoder.decode(new Uint8Array(message, 4, length)));
  return { type: "message", frame, body: new Uint8Array(message, 4 + length) };
}

/**
 * The head that an answer to a dial carries, if it does.
 *
 * @param {Response} response
 * @returns {Head | undefined}
 */
function headOf(response) {
  const text = response.headers.get(LIVE_HEAD);
  return text === null ? undefined : JSON.parse(text);
}

/** @param {Response} response */
function clientHeaders(response) {
  const headers = new Headers(response.headers);
  headers.delete(LIVE_HEAD);
  return headers;
}

class Reader {
  /** What the last dial was answered with, where that was no head. @type {Response | undefined} */
  #passed;
  /** @type {WebSocket | undefined} */
  #line;
  /** @type {number | null} */
  #timer = null;
  #timerAt = Infinity;

  /**
   * @param {Request} request
   * @param {Response} response The answer to the first dial.
   * @param {Head} head
   * @param {Dial} dial
   * @param {Client} client
   */
  constructor(request, response, head, dial, client) {
    this.request = request;
    this.held = response;
    this.head = head;
    this.dial = dial;
    this.client = client;
    this.tail = new Tail(Date.now(), head);
  }

  /** @param {Input} input */
  step(input) {
    const chance = Math.floor(Math.random() * 1000);
    for (const effect of this.tail.step(Date.now(), chance, input)) this.#run(effect);
    this.#schedule();
  }

  /**
   * Takes the answer to a dial.
   *
   * @param {Response} response
   */
  async take(response) {
    const head = headOf(response);
    if (head === undefined) {
      this.#passed = response;
      return this.step({ type: "passed", status: response.status });
    }
    const line = response.webSocket;
    const body = line === null ? new Uint8Array(await response.arrayBuffer()) : EMPTY;
    if (line !== null) {
      if (this.tail.isEnded) return line.accept(), line.close(1000);
      this.#attach(line);
    }
    this.step({ type: "dialled", head, body });
  }

  /** @param {WebSocket} line */
  #attach(line) {
    line.binaryType = "arraybuffer";
    line.accept();
    this.#line = line;
    line.addEventListener("message", (event) => {
      if (this.#line === line && event.data instanceof ArrayBuffer) this.step(decodedMessage(event.data));
    });
    const closed = () => {
      if (this.#line !== line) return;
      this.#line = undefined;
      this.step({ type: "line-closed" });
    };
    line.addEventListener("close", closed);
    line.addEventListener("error", closed);
  }

  /** @param {string} from */
  async #dialFrom(from) {
    const url = new URL(this.request.url);
    url.searchParams.set("offset", from);
    const headers = new Headers(this.request.headers);
    // It says where the client was when it connected.
    headers.delete("Last-Event-ID");
    try {
      await this.take(await this.dial(new Request(url, { headers })));
    } catch {
      this.step({ type: "unanswered" });
    }
  }

  /** @param {Effect} effect */
  #run(effect) {
    switch (effect.type) {
      case "dial":
        if (effect.after_ms === 0) this.#dialFrom(effect.from);
        else setTimeout(() => this.#dialFrom(effect.from), effect.after_ms);
        break;
      case "hang-up":
        this.#line?.close(1000);
        this.#line = undefined;
        break;
      case "emit":
        this.client.emit(effect.bytes);
        break;
      case "answer":
        this.client.answer(answered(effect));
        break;
      case "answer-held": {
        const { status } = this.head;
        this.client.answer(new Response(null, { status, headers: clientHeaders(this.held) }));
        break;
      }
      case "answer-passed":
        if (this.#passed === undefined) throw new Error("no answer has been passed on");
        this.client.answer(this.#passed);
        break;
      case "end":
        this.client.end();
        break;
    }
  }

  /** One timer at a time; one that comes early finds nothing to do and is set anew. */
  #schedule() {
    if (this.tail.isEnded) {
      clearTimeout(this.#timer);
      return;
    }
    const deadline = this.tail.deadline;
    if (this.#timerAt <= deadline) return;
    clearTimeout(this.#timer);
    this.#timerAt = deadline;
    const wait = Math.max(0, deadline - Date.now());
    this.#timer = setTimeout(() => {
      this.#timerAt = Infinity;
      this.step({ type: "tick" });
    }, wait);
  }
}

/** @param {Answer} answer */
function answered({ status, headers, body }) {
  // The platform refuses even an empty body with a status that has none.
  return new Response(body.byteLength === 0 ? null : body, { status, headers });
}

/**
 * Whether an answer to a request is the beginning of a live read.
 *
 * @param {Response} response
 */
export const isLive = (response) => response.headers.has(LIVE_HEAD);

/**
 * Answers a live read whose first dial was answered with the head of a line.
 *
 * @param {Request} request
 * @param {Response} response
 * @param {Dial} dial
 * @returns {Promise<Response>}
 */
export function serveLive(request, response, dial) {
  const head = headOf(response);
  if (head === undefined) throw new Error("the answer is not that of a live read");
  return head.class === "sse"
    ? serveEvents(request, response, head, dial)
    : serveLongPoll(request, response, head, dial);
}

/**
 * @param {Request} request
 * @param {Response} response
 * @param {Head} head
 * @param {Dial} dial
 */
async function serveEvents(request, response, head, dial) {
  /** @type {ReadableStreamDefaultController<Uint8Array>} */
  let controller;
  let ended = false;
  // Tells the tail whether its client reads.
  const pressure = () => {
    if (!ended) reader.step({ type: (controller.desiredSize ?? 0) > 0 ? "pull" : "full" });
  };
  const client = {
    emit(/** @type {Uint8Array} */ bytes) {
      controller.enqueue(bytes);
      queueMicrotask(pressure);
    },
    answer() {
      throw new Error("an event stream is not answered");
    },
    end() {
      ended = true;
      try {
        controller.close();
      } catch {
        // The client has left, and with it the stream.
      }
    },
  };
  const reader = new Reader(request, response, head, dial, client);
  const events = new ReadableStream(
    {
      start(/** @type {ReadableStreamDefaultController<Uint8Array>} */ given) {
        controller = given;
      },
      pull: pressure,
      cancel() {
        ended = true;
        reader.step({ type: "client-gone" });
      },
    },
    { highWaterMark: head.held_bytes_max, size: (/** @type {Uint8Array} */ chunk) => chunk.byteLength },
  );
  await reader.take(response);
  return new Response(events, { status: head.status, headers: clientHeaders(response) });
}

/**
 * @param {Request} request
 * @param {Response} response
 * @param {Head} head
 * @param {Dial} dial
 * @returns {Promise<Response>}
 */
function serveLongPoll(request, response, head, dial) {
  return new Promise((answer, reject) => {
    const unused = () => reject(new Error("a long-poll has no events"));
    const reader = new Reader(request, response, head, dial, { emit: unused, answer, end: unused });
    // A client's departure is not noticed before something is written to it: the line is closed
    // when the long-poll's time is over.
    reader.take(response).catch(reject);
  });
}
