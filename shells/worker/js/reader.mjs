// Carries out what a `LiveReader` decides for one client's SSE response or long-poll. The reader
// subscribes to its stream over a WebSocket.

import { JITTER_END, LIVE_HEAD, LiveReader } from "./live_reader.mjs";

/** @import { Answer, Effect, MessageHead, Head, Input } from "./live_reader.mjs" */

/** @typedef {(request: Request) => Promise<Response>} Connect */

/**
 * The client's side of the response.
 *
 * @typedef {object} Client
 * @property {(bytes: Uint8Array) => void} emit
 * @property {(response: Response) => void} answer
 * @property {() => void} end
 */

const decoder = new TextDecoder();
const EMPTY = new Uint8Array();
/** The status of a WebSocket that is no longer needed (RFC 6455, 7.4.1). */
const NORMAL_CLOSURE = 1_000;

/**
 * @param {ArrayBuffer} message
 * @returns {Input}
 */
function decodedMessage(message) {
  const length = new DataView(message).getUint32(0, true);
  /** @type {MessageHead} */
  const head = JSON.parse(decoder.decode(new Uint8Array(message, 4, length)));
  return { type: "message", head, body: new Uint8Array(message, 4 + length) };
}

/**
 * Returns the live head of an answer to a connection attempt, if it has one.
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
  /** The last answer that has no live head. @type {Response | undefined} */
  #forwarded;
  /** @type {WebSocket | undefined} */
  #attachment;
  /** @type {number | null} */
  #timer = null;
  #timerAt = Infinity;

  /**
   * @param {Request} request
   * @param {Response} response The answer to the first connection attempt.
   * @param {Head} head
   * @param {Connect} connect
   * @param {Client} client
   */
  constructor(request, response, head, connect, client) {
    this.request = request;
    this.held = response;
    this.head = head;
    this.connect = connect;
    this.client = client;
    this.machine = new LiveReader(Date.now(), head);
  }

  /** @param {Input} input */
  step(input) {
    const jitter = Math.floor(Math.random() * JITTER_END);
    for (const effect of this.machine.step(Date.now(), jitter, input)) this.#run(effect);
    this.#schedule();
  }

  /**
   * Handles the answer to a connection attempt.
   *
   * @param {Response} response
   */
  async take(response) {
    const head = headOf(response);
    if (head === undefined) {
      this.#forwarded = response;
      return this.step({ type: "forwarded", status: response.status });
    }
    const socket = response.webSocket;
    const body = socket === null ? new Uint8Array(await response.arrayBuffer()) : EMPTY;
    if (socket !== null) {
      if (this.machine.isEnded) {
        socket.accept();
        socket.close(NORMAL_CLOSURE);
        return;
      }
      this.#attach(socket);
    }
    this.step({ type: "connected", head, body });
  }

  /** @param {WebSocket} socket */
  #attach(socket) {
    socket.binaryType = "arraybuffer";
    socket.accept();
    this.#attachment = socket;
    socket.addEventListener("message", (event) => {
      if (this.#attachment !== socket || !(event.data instanceof ArrayBuffer)) return;
      this.step(decodedMessage(event.data));
    });
    const closed = () => {
      if (this.#attachment !== socket) return;
      this.#attachment = undefined;
      this.step({ type: "disconnected" });
    };
    socket.addEventListener("close", closed);
    socket.addEventListener("error", closed);
  }

  /** @param {string} from */
  async #connectFrom(from) {
    const url = new URL(this.request.url);
    url.searchParams.set("offset", from);
    const headers = new Headers(this.request.headers);
    // It names the position of the client's first request, and `offset` the present one.
    headers.delete("Last-Event-ID");
    try {
      await this.take(await this.connect(new Request(url, { headers })));
    } catch {
      this.step({ type: "unanswered" });
    }
  }

  /** @param {Effect} effect */
  #run(effect) {
    switch (effect.type) {
      case "connect":
        if (effect.after_ms === 0) this.#connectFrom(effect.from);
        else setTimeout(() => this.#connectFrom(effect.from), effect.after_ms);
        break;
      case "disconnect":
        this.#attachment?.close(NORMAL_CLOSURE);
        this.#attachment = undefined;
        break;
      case "emit":
        this.client.emit(effect.bytes);
        break;
      case "answer":
        this.client.answer(answered(effect));
        break;
      case "respond-empty": {
        const { status } = this.head;
        this.client.answer(new Response(null, { status, headers: clientHeaders(this.held) }));
        break;
      }
      case "forward":
        if (this.#forwarded === undefined) throw new Error("there is no answer to forward");
        this.client.answer(this.#forwarded);
        break;
      case "end":
        this.client.end();
        break;
    }
  }

  /** Keeps one timer. If it fires early, the machine does nothing, and a new one is set. */
  #schedule() {
    if (this.machine.isEnded) {
      clearTimeout(this.#timer);
      return;
    }
    const deadline = this.machine.deadline;
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
  // The platform rejects a body, even an empty one, with a status such as 204.
  return new Response(body.byteLength === 0 ? null : body, { status, headers });
}

/**
 * Returns whether an answer begins a live read.
 *
 * @param {Response} response
 */
export const isLive = (response) => response.headers.has(LIVE_HEAD);

/**
 * Answers a live read. `response` has the live head that answered the first connection attempt.
 *
 * @param {Request} request
 * @param {Response} response
 * @param {Connect} connect
 * @returns {Promise<Response>}
 */
export function serveLive(request, response, connect) {
  const head = headOf(response);
  if (head === undefined) throw new Error("the answer is not that of a live read");
  return head.class === "sse"
    ? serveEvents(request, response, head, connect)
    : serveLongPoll(request, response, head, connect);
}

/**
 * @param {Request} request
 * @param {Response} response
 * @param {Head} head
 * @param {Connect} connect
 */
async function serveEvents(request, response, head, connect) {
  /** @type {ReadableStreamDefaultController<Uint8Array>} */
  let controller;
  let ended = false;
  // Says whether the client reads.
  const pressure = () => {
    if (ended) return;
    reader.step({ type: (controller.desiredSize ?? 0) > 0 ? "drained" : "backpressure" });
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
        // The client has disconnected, which has closed the stream of events.
      }
    },
  };
  const reader = new Reader(request, response, head, connect, client);
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
    {
      highWaterMark: head.held_bytes_max,
      size: (/** @type {Uint8Array} */ chunk) => chunk.byteLength,
    },
  );
  await reader.take(response);
  return new Response(events, { status: head.status, headers: clientHeaders(response) });
}

/**
 * @param {Request} request
 * @param {Response} response
 * @param {Head} head
 * @param {Connect} connect
 * @returns {Promise<Response>}
 */
function serveLongPoll(request, response, head, connect) {
  return new Promise((answer, reject) => {
    const unused = () => reject(new Error("a long-poll has no events"));
    const client = { emit: unused, answer, end: unused };
    const reader = new Reader(request, response, head, connect, client);
    // The platform reports that a client has disconnected only when something is written to it. The
    // reader of such a client ends when the long-poll's time is over.
    reader.take(response).catch(reject);
  });
}
