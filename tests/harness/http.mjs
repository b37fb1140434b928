// A plain HTTP/1.1 client. It sends paths and headers exactly as given, and retries, follows and
// decodes nothing.

import http from "node:http";
import net from "node:net";

/** @typedef {string | Uint8Array} Bytes */

/**
 * What `request` sends.
 *
 * @typedef {object} Options
 * @property {string} [method]
 * @property {Record<string, string | number | string[]>} [headers]
 * @property {Bytes | Bytes[]} [body]
 * @property {number} [announced]
 * @property {http.Agent} [agent]
 * @property {number} [timeoutMs]
 * @property {AbortSignal} [signal]
 */

const sharedAgent = new http.Agent({ keepAlive: true });

/** One complete answer. */
export class Answer {
  /**
   * @param {number} status
   * @param {Record<string, any>} headers
   * @param {Buffer} body
   * @param {number} [port] the port of this end of the connection
   */
  constructor(status, headers, body, port) {
    this.status = status;
    this.headers = headers;
    this.body = body;
    this.port = port;
  }
  get text() {
    return this.body.toString("utf8");
  }
  json() {
    return JSON.parse(this.text);
  }
  get offset() {
    return this.headers["stream-next-offset"];
  }
  get closed() {
    return this.headers["stream-closed"];
  }
  get upToDate() {
    return this.headers["stream-up-to-date"];
  }
  get cursor() {
    return this.headers["stream-cursor"];
  }
  get etag() {
    return this.headers.etag;
  }
}

/**
 * Sends one request to `path` of the server at `base` and reads the whole answer. A `body` that is
 * an array is sent in chunks, one for each element. A string or bytes are sent with their length.
 * `announced` sends that length and no body, because a server that refuses the request must not
 * need the body.
 *
 * @param {string} base
 * @param {string} path
 * @param {Options} [options]
 * @returns {Promise<Answer>}
 */
export function request(
  base,
  path,
  {
    method = "GET",
    headers = {},
    body,
    announced,
    agent = sharedAgent,
    timeoutMs = 60_000,
    signal,
  } = {},
) {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    const chunked = Array.isArray(body);
    const length =
      body === undefined || chunked ? {} : { "Content-Length": Buffer.byteLength(body) };
    if (announced !== undefined) length["Content-Length"] = announced;
    const outgoing = http.request({
      hostname,
      port,
      path,
      method,
      agent,
      signal,
      headers: { ...length, ...headers },
    });
    const timer = setTimeout(
      () => outgoing.destroy(new Error(`${method} ${path}: no answer in ${timeoutMs} ms`)),
      timeoutMs,
    );
    const fail = (error) => {
      clearTimeout(timer);
      reject(error);
    };
    outgoing.on("error", fail);
    outgoing.on("response", (incoming) => {
      const parts = [];
      const port = incoming.socket.localPort;
      incoming.on("data", (part) => parts.push(part));
      incoming.on("error", fail);
      incoming.on("end", () => {
        clearTimeout(timer);
        if (announced !== undefined) outgoing.destroy();
        resolve(new Answer(incoming.statusCode, incoming.headers, Buffer.concat(parts), port));
      });
    });
    if (announced !== undefined) {
      outgoing.flushHeaders();
    } else if (chunked) {
      outgoing.setHeader("Transfer-Encoding", "chunked");
      for (const chunk of body) outgoing.write(chunk);
      outgoing.end();
    } else {
      outgoing.end(body);
    }
  });
}

/**
 * Sends `bytes` on a new connection. Returns all bytes until the server closes it.
 *
 * @param {string} base
 * @param {Bytes} bytes
 * @returns {Promise<Buffer>}
 */
export function exchange(base, bytes, { timeoutMs = 30_000 } = {}) {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    const parts = [];
    const socket = net.connect(Number(port), hostname, () => socket.write(bytes));
    socket.setTimeout(timeoutMs, () =>
      socket.destroy(new Error(`the connection was not closed in ${timeoutMs} ms`)),
    );
    socket.on("data", (part) => parts.push(part));
    socket.on("error", reject);
    socket.on("end", () => resolve(Buffer.concat(parts)));
  });
}

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Repeats `condition` until it returns something true. Fails with `what` after the deadline. */
export async function eventually(what, condition, { timeoutMs = 30_000, everyMs = 50 } = {}) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(everyMs);
  }
}
