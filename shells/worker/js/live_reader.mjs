// The reader's side of a live read, without any I/O. It is the twin of
// `machine/src/live_reader.rs`, which explains its words. `cargo xtask live-reader-traces` checks
// that both do the same.
//
// The twin exists because a panic of the Rust code ends the wasm instance of the whole isolate.
// In JavaScript the live readers survive it.

/** The header that carries a `Head` (`machine/src/wire/internal_headers.rs`). */
export const LIVE_HEAD = "Stream-Subscriber";

/** The jitter of a step is a random number below this. */
export const JITTER_END = 1_000;

/** @typedef {"sse" | "long-poll"} Class */

/**
 * The object's answer to a connection attempt (`live_reader::LiveHead`).
 *
 * @typedef {object} Head
 * @property {Class} class
 * @property {string} incarnation
 * @property {boolean} attached
 * @property {number} status
 * @property {string} next
 * @property {number} cursor
 * @property {boolean} up_to_date
 * @property {boolean} closed
 * @property {number} age_ms_max
 * @property {number} heartbeat_ms
 * @property {number} held_bytes_max
 * @property {number} reconnect_base_ms
 * @property {string} cache_control
 */

/**
 * One message from the object to a subscriber (`live_reader::MessageHead`).
 *
 * @typedef {object} MessageHead
 * @property {string} from
 * @property {string} next
 * @property {number} cursor
 * @property {boolean} whole
 * @property {"closed" | "deleted"} [end]
 * @property {number} [status]
 * @property {[string, string][]} [headers]
 */

/**
 * An event for the reader (`live_reader::Input`).
 *
 * @typedef {{ type: "connected", head: Head, body: Uint8Array }
 *   | { type: "forwarded", status: number }
 *   | { type: "message", head: MessageHead, body: Uint8Array }
 *   | { type: "unanswered" | "disconnected" | "drained" | "backpressure" | "tick" }
 *   | { type: "half-closed" | "ending" | "client-gone" }
 * } Input
 */

/**
 * The answer of a long-poll.
 *
 * @typedef {object} Answer
 * @property {"answer"} type
 * @property {number} status
 * @property {[string, string][]} headers
 * @property {Uint8Array} body
 */

/**
 * An action for the shell (`live_reader::Effect`).
 *
 * @typedef {{ type: "connect", from: string, after_ms: number }
 *   | { type: "emit", bytes: Uint8Array }
 *   | Answer
 *   | { type: "disconnect" | "respond-empty" | "forward" | "end" }
 * } Effect
 */

const encoder = new TextEncoder();
const HEARTBEAT = encoder.encode(": heartbeat\n\n");
const EMPTY = new Uint8Array();
const RECONNECT_DOUBLINGS_MAX = 4;

/** @param {Uint8Array[]} parts */
function concatenated(...parts) {
  const whole = new Uint8Array(parts.reduce((bytes, part) => bytes + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

const idLine = (/** @type {string} */ next) => `id: ${next}\n`;

/**
 * @param {string} next
 * @param {number} cursor
 * @param {boolean} upToDate
 * @param {boolean} closed
 */
function controlEvent(next, cursor, upToDate, closed) {
  /** @type {Record<string, string | boolean>} */
  const control = { streamNextOffset: next };
  if (!closed) control.streamCursor = String(cursor);
  if (upToDate || closed) control.upToDate = true;
  if (closed) control.streamClosed = true;
  return encoder.encode(`${idLine(next)}event: control\ndata:${JSON.stringify(control)}\n\n`);
}

/** One client's live read. */
export class LiveReader {
  /** @type {"connecting" | "attached" | "behind" | "ended"} */
  phase = "connecting";
  sentUpToDate = false;
  attempts = 0;

  /**
   * @param {number} now
   * @param {Head} head
   */
  constructor(now, head) {
    this.class = head.class;
    this.incarnation = head.incarnation;
    this.position = head.next;
    this.cursor = head.cursor;
    this.endsAt = now + head.age_ms_max;
    this.writtenAt = now;
    this.heartbeatMs = head.heartbeat_ms;
    this.reconnectBaseMs = head.reconnect_base_ms;
    this.cacheControl = head.cache_control;
  }

  get isEnded() {
    return this.phase === "ended";
  }

  get deadline() {
    const isOpen = this.phase === "connecting" || this.phase === "attached";
    const writes = this.class === "sse" && isOpen;
    return writes ? Math.min(this.endsAt, this.writtenAt + this.heartbeatMs) : this.endsAt;
  }

  /**
   * @param {number} now
   * @param {number} jitter
   * @param {Input} input
   * @returns {Effect[]}
   */
  step(now, jitter, input) {
    if (this.isEnded) return [];
    switch (input.type) {
      case "connected":
        return this.#connected(now, input.head, input.body);
      case "forwarded":
        return this.#forwarded(input.status, jitter);
      case "unanswered":
        return this.#reconnect(jitter);
      case "message":
        return this.#message(now, input.head, input.body);
      case "disconnected":
        if (this.phase !== "attached") return [];
        this.attempts = 0;
        return this.#reconnect(jitter);
      case "drained":
        return this.phase === "behind" ? [this.#connect(0)] : [];
      case "backpressure":
        return this.#backpressure();
      case "tick":
        return this.#tick(now);
      case "half-closed":
        return this.class === "sse" ? [this.#heartbeat(now)] : [];
      case "ending":
      case "client-gone":
        return this.#end();
    }
  }

  /**
   * @param {number} now
   * @param {Head} head
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  #connected(now, head, body) {
    if (this.phase !== "connecting" || head.incarnation !== this.incarnation) return this.#end();
    this.attempts = 0;
    this.position = head.next;
    this.cursor = Math.max(this.cursor, head.cursor);
    if (head.attached) {
      this.phase = "attached";
      this.cacheControl = head.cache_control;
      if (this.class === "long-poll" || this.sentUpToDate) return [];
      return [this.#emit(now, EMPTY, true, false)];
    }
    this.phase = "behind";
    const page = this.#emit(now, body, head.up_to_date, head.closed);
    return head.closed ? [page, ...this.#end()] : [page];
  }

  /**
   * @param {number} status
   * @param {number} jitter
   * @returns {Effect[]}
   */
  #forwarded(status, jitter) {
    if (this.class === "sse") return status >= 500 ? this.#reconnect(jitter) : this.#end();
    this.phase = "ended";
    return [{ type: "forward" }];
  }

  /**
   * @param {number} now
   * @param {MessageHead} head
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  #message(now, head, body) {
    if (this.phase !== "attached") return [];
    if (head.end === "deleted" && this.class === "sse") return this.#end();
    if (head.from !== this.position || !head.whole) {
      return [{ type: "disconnect" }, this.#connect(0)];
    }
    this.position = head.next;
    this.cursor = Math.max(this.cursor, head.cursor);
    if (this.class === "sse") {
      const closed = head.end === "closed";
      const emit = this.#emit(now, body, true, closed);
      return closed ? [emit, ...this.#end()] : [emit];
    }
    const { status, headers } = head;
    if (status === undefined) throw new Error("a long-poll's head has a status");
    this.phase = "ended";
    return [
      { type: "disconnect" },
      { type: "answer", status, headers: this.#answerHeaders(status, headers ?? []), body },
    ];
  }

  /**
   * @param {number} status
   * @param {[string, string][]} headers
   * @returns {[string, string][]}
   */
  #answerHeaders(status, headers) {
    return headers.map(([name, value]) => {
      if (name === "Stream-Cursor") return [name, String(this.cursor)];
      if (name === "Cache-Control" && status === 200) return [name, this.cacheControl];
      return [name, value];
    });
  }

  /** @returns {Effect[]} */
  #backpressure() {
    if (this.phase !== "attached") return [];
    // A long-poll has nothing before its answer that its client would have to read first.
    if (this.class === "long-poll") return [{ type: "disconnect" }, this.#connect(0)];
    this.phase = "behind";
    return [{ type: "disconnect" }];
  }

  /**
   * @param {number} now
   * @returns {Effect[]}
   */
  #tick(now) {
    if (now >= this.endsAt) return this.#end();
    return now < this.deadline ? [] : [this.#heartbeat(now)];
  }

  /**
   * @param {number} now
   * @returns {Effect}
   */
  #heartbeat(now) {
    this.writtenAt = now;
    return { type: "emit", bytes: HEARTBEAT };
  }

  /**
   * @param {number} now
   * @param {Uint8Array} data
   * @param {boolean} upToDate
   * @param {boolean} closed
   * @returns {Effect}
   */
  #emit(now, data, upToDate, closed) {
    this.writtenAt = now;
    this.sentUpToDate = upToDate;
    const control = controlEvent(this.position, this.cursor, upToDate, closed);
    if (data.byteLength === 0) return { type: "emit", bytes: control };
    const id = encoder.encode(idLine(this.position));
    return { type: "emit", bytes: concatenated(id, data, control) };
  }

  /**
   * @param {number} afterMs
   * @returns {Effect}
   */
  #connect(afterMs) {
    this.phase = "connecting";
    return { type: "connect", from: this.position, after_ms: afterMs };
  }

  /**
   * @param {number} jitter
   * @returns {Effect[]}
   */
  #reconnect(jitter) {
    const doublings = Math.min(this.attempts, RECONNECT_DOUBLINGS_MAX);
    const bound = this.reconnectBaseMs * 2 ** doublings;
    this.attempts += 1;
    return [this.#connect(Math.floor((bound * jitter) / JITTER_END))];
  }

  /** @returns {Effect[]} */
  #end() {
    this.phase = "ended";
    return [{ type: "disconnect" }, { type: this.class === "sse" ? "end" : "respond-empty" }];
  }
}
