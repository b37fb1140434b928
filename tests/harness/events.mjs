// A reader of Server-Sent Events. It follows the parsing rules of the HTML standard, and keeps what
// it receives for assertions.

import http from "node:http";
import { StringDecoder } from "node:string_decoder";
import { Answer } from "./http.mjs";

// The part of the raw answer that a reader keeps for assertions on the wire format.
const wireKept = 256 * 1024;

/**
 * One event. `openEvents` adds the parsed data of a control event, and when an event came.
 *
 * @typedef {object} ServerSentEvent
 * @property {string} type
 * @property {string} data
 * @property {string} lastEventId
 * @property {any} [control]
 * @property {number} [receivedAt]
 */

/** Splits text into events. `feed` accepts pieces of any size. */
export class EventParser {
  #decoder = new StringDecoder("utf8");
  /** The beginning of a line whose end has not arrived. */
  #parts = [];
  #carriageReturn = "";
  #type = "";
  #lines = [];
  #id = "";

  /**
   * @param {object} handlers
   * @param {(event: ServerSentEvent) => void} handlers.onEvent
   * @param {(line: string) => void} [handlers.onComment]
   */
  constructor({ onEvent, onComment = () => {} }) {
    this.onEvent = onEvent;
    this.onComment = onComment;
  }

  feed(bytes) {
    const text = this.#carriageReturn + this.#decoder.write(bytes);
    this.#carriageReturn = "";
    let start = 0;
    for (let index = 0; index < text.length; index += 1) {
      const character = text[index];
      if (character !== "\n" && character !== "\r") continue;
      // A final carriage return may be half of a CRLF. The next piece decides.
      if (character === "\r" && index + 1 === text.length) {
        this.#carriageReturn = character;
        break;
      }
      this.#line(this.#parts.join("") + text.slice(start, index));
      this.#parts = [];
      if (character === "\r" && text[index + 1] === "\n") index += 1;
      start = index + 1;
    }
    this.#parts.push(text.slice(start, text.length - this.#carriageReturn.length));
  }

  #line(line) {
    if (line === "") {
      if (this.#lines.length > 0)
        this.onEvent({
          type: this.#type || "message",
          data: this.#lines.join("\n"),
          lastEventId: this.#id,
        });
      this.#type = "";
      this.#lines = [];
      return;
    }
    if (line.startsWith(":")) {
      this.onComment(line);
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const rest = colon < 0 ? "" : line.slice(colon + 1);
    const value = rest.startsWith(" ") ? rest.slice(1) : rest;
    if (field === "event") this.#type = value;
    if (field === "data") this.#lines.push(value);
    if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}

/** One open SSE read. */
export class EventReader {
  status;
  headers;
  events = [];
  comments = [];
  wire = "";
  ended = false;
  #taken = 0;
  #waiting = new Set();
  #outgoing;
  #incoming;

  constructor(outgoing, incoming) {
    this.#outgoing = outgoing;
    this.#incoming = incoming;
    this.status = incoming.statusCode;
    this.headers = incoming.headers;
    const parser = new EventParser({
      onEvent: (event) => {
        if (event.type === "control") event.control = JSON.parse(event.data);
        event.receivedAt = performance.now();
        this.events.push(event);
      },
      onComment: (line) => this.comments.push(line),
    });
    incoming.on("data", (bytes) => {
      if (this.wire.length < wireKept) this.wire += bytes.toString("latin1");
      parser.feed(bytes);
      this.#wake();
    });
    incoming.on("error", () => this.#end());
    incoming.on("close", () => this.#end());
  }

  #end() {
    this.ended = true;
    this.#wake();
  }

  #wake() {
    for (const check of [...this.#waiting]) check();
  }

  #until(what, condition, timeoutMs) {
    return new Promise((resolve, reject) => {
      const check = () => {
        if (condition()) finish(resolve);
        else if (this.ended)
          finish(() =>
            reject(new Error(`the event stream ended before ${what}; it held:\n${this.wire}`)),
          );
      };
      const finish = (settle) => {
        this.#waiting.delete(check);
        clearTimeout(timer);
        settle();
      };
      const timer = setTimeout(
        () =>
          finish(() =>
            reject(
              new Error(`no ${what} in ${timeoutMs} ms; the event stream held:\n${this.wire}`),
            ),
          ),
        timeoutMs,
      );
      this.#waiting.add(check);
      check();
    });
  }

  /**
   * Returns the next event, of `type` if given. Earlier events of other types are skipped.
   *
   * @param {{ type?: string, timeoutMs?: number }} [options]
   */
  async next({ type, timeoutMs = 30_000 } = {}) {
    const found = () =>
      this.events.findIndex(
        (event, index) => index >= this.#taken && (!type || event.type === type),
      );
    await this.#until(`${type ?? "any"} event`, () => found() >= 0, timeoutMs);
    const index = found();
    this.#taken = index + 1;
    return this.events[index];
  }

  /** Waits for a control event, past or future, that `accepts` accepts. */
  async control(accepts = () => true, { timeoutMs = 30_000 } = {}) {
    const found = () => this.controls.find(accepts);
    await this.#until("matching control event", () => found() !== undefined, timeoutMs);
    return found();
  }

  upToDate(options) {
    return this.control((control) => control.upToDate === true, options);
  }

  /** Waits until the server ends the answer. */
  async end({ timeoutMs = 30_000 } = {}) {
    await this.#until("end of the event stream", () => this.ended, timeoutMs);
  }

  get controls() {
    return this.events.filter((event) => event.type === "control").map((event) => event.control);
  }

  get chunks() {
    return this.events.filter((event) => event.type === "data").map((event) => event.data);
  }

  /** All data as text. */
  get text() {
    return this.chunks.join("");
  }

  /** All messages of a JSON stream. */
  get messages() {
    return this.chunks.flatMap((chunk) => JSON.parse(chunk));
  }

  /** All data of a stream whose events are base64. */
  get bytes() {
    return Buffer.concat(
      this.chunks.map((chunk) => Buffer.from(chunk.replace(/[\r\n]/g, ""), "base64")),
    );
  }

  pause() {
    this.#incoming.pause();
  }

  resume() {
    this.#incoming.resume();
  }

  close() {
    this.#outgoing.destroy();
  }
}

/**
 * Opens an SSE read on a new connection. Resolves to an `EventReader`, or to an `Answer` if the
 * server refuses.
 */
export function openEvents(base, path, { headers = {}, paused = false } = {}) {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    const outgoing = http.request({ hostname, port, path, headers, agent: false });
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      if (incoming.headers["content-type"]?.startsWith("text/event-stream")) {
        const reader = new EventReader(outgoing, incoming);
        if (paused) reader.pause();
        resolve(reader);
        return;
      }
      const parts = [];
      incoming.on("data", (part) => parts.push(part));
      incoming.on("end", () =>
        resolve(new Answer(incoming.statusCode, incoming.headers, Buffer.concat(parts))),
      );
      incoming.on("error", reject);
    });
    outgoing.end();
  });
}
