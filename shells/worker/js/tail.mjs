// The reader's side of a live read, without any I/O: the twin of `machine/src/live_reader.rs`, which
// explains its words. `cargo xtask tail-traces` replays here what the Rust machine has done.
//
// The twin exists because a panic of the Rust code ends the wasm instance of the whole isolate.
// In JavaScript the live readers survive it.

/** The header that carries a `Head` (`machine/src/wire/internal_headers.rs`). */
export const LIVE_HEAD = "Stream-Line";

/** @typedef {"sse" | "long-poll"} Class */

/**
 * What the object tells the reader's side with each answer to a dial (`LiveHead`).
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
 * @property {number} redial_ms_max
 * @property {string} cache_control
 */

/**
 * One message over a line (`live_reader::Frame`).
 *
 * @typedef {object} Frame
 * @property {string} from
 * @property {string} next
 * @property {number} cursor
 * @property {boolean} whole
 * @property {"closed" | "deleted"} [end]
 * @property {number} [status]
 * @property {[string, string][]} [headers]
 */

/**
 * What can happen to a reader (`live_reader::Input`).
 *
 * @typedef {{ type: "dialled", head: Head, body: Uint8Array }
 *   | { type: "passed", status: number }
 *   | { type: "message", frame: Frame, body: Uint8Array }
 *   | { type: "unanswered" | "line-closed" | "pull" | "full" | "tick" }
 *   | { type: "half-closed" | "ending" | "client-gone" }
 * } Input
 */

/** @typedef {{ type: "answer", status: number, headers: [string, string][], body: Uint8Array }} Answer */

/**
 * What the reader is to do (`live_reader::Effect`).
 *
 * @typedef {{ type: "dial", from: string, after_ms: number }
 *   | { type: "emit", bytes: Uint8Array }
 *   | Answer
 *   | { type: "hang-up" | "answer-held" | "answer-passed" | "end" }
 * } Effect
 */

const encoder = new TextEncoder();
const HEARTBEAT = encoder.encode(": heartbeat\n\n");
const EMPTY = new Uint8Array();

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

export class Tail {
  /** @type {"dialling" | "attached" | "behind" | "ended"} */
  phase = "dialling";
  toldUpToDate = false;
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
    this.redialMsMax = head.redial_ms_max;
    this.cacheControl = head.cache_control;
  }

  get isEnded() {
    return this.phase === "ended";
  }

  get deadline() {
    const writes = this.class === "sse" && (this.phase === "dialling" || this.phase === "attached");
    return writes ? Math.min(this.endsAt, this.writtenAt + this.heartbeatMs) : this.endsAt;
  }

  /**
   * @param {number} now
   * @param {number} chance
   * @param {Input} input
   * @returns {Effect[]}
   */
  step(now, chance, input) {
    if (this.isEnded) return [];
    switch (input.type) {
      case "dialled":
        return this.#dialled(now, input.head, input.body);
      case "passed":
        return this.#passed(input.status, chance);
      case "unanswered":
        return this.#redial(chance);
      case "message":
        return this.#message(now, input.frame, input.body);
      case "line-closed":
        if (this.phase !== "attached") return [];
        this.attempts = 0;
        return this.#redial(chance);
      case "pull":
        return this.phase === "behind" ? [this.#dial(0)] : [];
      case "full":
        return this.#full();
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
  #dialled(now, head, body) {
    if (this.phase !== "dialling" || head.incarnation !== this.incarnation) return this.#end();
    this.attempts = 0;
    this.position = head.next;
    this.cursor = Math.max(this.cursor, head.cursor);
    if (head.attached) {
      this.phase = "attached";
      this.cacheControl = head.cache_control;
      if (this.class === "long-poll" || this.toldUpToDate) return [];
      return [this.#emit(now, EMPTY, true, false)];
    }
    this.phase = "behind";
    const page = this.#emit(now, body, head.up_to_date, head.closed);
    return head.closed ? [page, ...this.#end()] : [page];
  }

  /**
   * @param {number} status
   * @param {number} chance
   * @returns {Effect[]}
   */
  #passed(status, chance) {
    if (this.class === "sse") return status >= 500 ? this.#redial(chance) : this.#end();
    this.phase = "ended";
    return [{ type: "answer-passed" }];
  }

  /**
   * @param {number} now
   * @param {Frame} frame
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  #message(now, frame, body) {
    if (this.phase !== "attached") return [];
    if (frame.end === "deleted" && this.class === "sse") return this.#end();
    if (frame.from !== this.position || !frame.whole) return [{ type: "hang-up" }, this.#dial(0)];
    this.position = frame.next;
    this.cursor = Math.max(this.cursor, frame.cursor);
    if (this.class === "sse") {
      const closed = frame.end === "closed";
      const emit = this.#emit(now, body, true, closed);
      return closed ? [emit, ...this.#end()] : [emit];
    }
    const { status, headers } = frame;
    if (status === undefined) throw new Error("a long-poll's frame has a status");
    this.phase = "ended";
    return [
      { type: "hang-up" },
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
  #full() {
    if (this.phase !== "attached") return [];
    // A long-poll always takes its answer, so that nothing waits for its client to read.
    if (this.class === "long-poll") return [{ type: "hang-up" }, this.#dial(0)];
    this.phase = "behind";
    return [{ type: "hang-up" }];
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
    this.toldUpToDate = upToDate;
    const control = controlEvent(this.position, this.cursor, upToDate, closed);
    if (data.byteLength === 0) return { type: "emit", bytes: control };
    return { type: "emit", bytes: concatenated(encoder.encode(idLine(this.position)), data, control) };
  }

  /**
   * @param {number} afterMs
   * @returns {Effect}
   */
  #dial(afterMs) {
    this.phase = "dialling";
    return { type: "dial", from: this.position, after_ms: afterMs };
  }

  /**
   * @param {number} chance
   * @returns {Effect[]}
   */
  #redial(chance) {
    const longest = this.redialMsMax * 2 ** Math.min(this.attempts, 4);
    this.attempts += 1;
    return [this.#dial(Math.floor((longest * chance) / 1000))];
  }

  /** @returns {Effect[]} */
  #end() {
    this.phase = "ended";
    return [{ type: "hang-up" }, { type: this.class === "sse" ? "end" : "answer-held" }];
  }
}
