// A handle on one stream of a server under test.

import { randomUUID } from "node:crypto";
import { request } from "./http.mjs";
import { openEvents } from "./events.mjs";

/** The first position of every stream as this server writes it. */
export const firstOffset = "0000000000000000_0000000000000000";

/** A well-formed offset that no stream reaches. */
export const farOffset = "9999999999999999_9999999999999999";

/** @import { Options } from "./http.mjs" */

const streamRoot = "/v1/stream/";

/** Returns a name that no other test uses. */
export function freshName(label = "test") {
  return `${label}-${randomUUID()}`;
}

export function producer(id, epoch, seq) {
  return { "Producer-Id": id, "Producer-Epoch": String(epoch), "Producer-Seq": String(seq) };
}

export class Stream {
  constructor(base, name = freshName(), contentType = "text/plain") {
    this.base = base;
    this.name = name;
    this.contentType = contentType;
    this.path = streamRoot + name;
  }

  /**
   * The offset of the end when the stream was created.
   *
   * @type {string}
   */
  start;

  /**
   * Creates a stream with a new name. Throws if the server refuses.
   *
   * @param {string} base
   * @param {Options & { contentType?: string }} [options]
   */
  static async create(base, { contentType = "text/plain", body, headers } = {}) {
    const stream = new Stream(base, freshName(), contentType);
    const answer = await stream.put({ body, headers });
    if (answer.status !== 201) throw new Error(`PUT answered ${answer.status}: ${answer.text}`);
    stream.start = answer.offset;
    return stream;
  }

  get url() {
    return this.base + this.path;
  }

  /**
   * @param {string} method
   * @param {Options & { query?: string }} [options]
   */
  request(method, { query = "", headers, body, ...rest } = {}) {
    return request(this.base, this.path + query, { method, headers, body, ...rest });
  }

  /** @param {Options} [options] */
  put({ body, headers, announced } = {}) {
    return this.request("PUT", {
      body,
      announced,
      headers: { "Content-Type": this.contentType, ...headers },
    });
  }

  /**
   * POST with the stream's own content type.
   *
   * @param {Options["body"]} [body]
   * @param {Options["headers"]} [headers]
   * @param {Options} [options]
   */
  append(body, headers, options) {
    return this.request("POST", {
      body,
      headers: { "Content-Type": this.contentType, ...headers },
      ...options,
    });
  }

  /**
   * POST with no headers but those given.
   *
   * @param {Options["body"]} [body]
   * @param {Options["headers"]} [headers]
   */
  post(body, headers) {
    return this.request("POST", { body, headers });
  }

  /**
   * Closes without a final append.
   *
   * @param {Options["headers"]} [headers]
   */
  close(headers) {
    return this.request("POST", { headers: { "Stream-Closed": "true", ...headers } });
  }

  /**
   * @param {string} [offset]
   * @param {Options["headers"]} [headers]
   */
  read(offset, headers) {
    return this.get(offset === undefined ? "" : `?offset=${offset}`, headers);
  }

  /**
   * @param {string} [query]
   * @param {Options["headers"]} [headers]
   */
  get(query = "", headers) {
    return this.request("GET", { query, headers });
  }

  /**
   * @param {string} offset
   * @param {Options & { cursor?: string | number }} [options]
   */
  longPoll(offset, { cursor, headers, ...rest } = {}) {
    const suffix = cursor === undefined ? "" : `&cursor=${cursor}`;
    return this.request("GET", {
      query: `?offset=${offset}&live=long-poll${suffix}`,
      headers,
      ...rest,
    });
  }

  /**
   * @param {string} offset
   * @param {{ cursor?: string | number, headers?: Options["headers"], paused?: boolean }} [options]
   */
  events(offset, { cursor, headers, paused } = {}) {
    const suffix = cursor === undefined ? "" : `&cursor=${cursor}`;
    return openEvents(this.base, `${this.path}?offset=${offset}&live=sse${suffix}`, {
      headers,
      paused,
    });
  }

  /** @param {Options["headers"]} [headers] */
  head(headers) {
    return this.request("HEAD", { headers });
  }

  /** @param {Options["headers"]} [headers] */
  delete(headers) {
    return this.request("DELETE", { headers });
  }

  /** Reads all pages from `offset` to the tail. */
  async pages(offset = "-1") {
    const pages = [];
    for (let next = offset; ; next = pages.at(-1).offset) {
      const page = await this.read(next);
      if (page.status !== 200) throw new Error(`GET answered ${page.status}: ${page.text}`);
      pages.push(page);
      if (page.upToDate === "true") return pages;
      if (page.offset === next)
        throw new Error(`a page that is not up to date did not move on from ${next}`);
    }
  }

  /**
   * Everything in the stream, as bytes.
   *
   * @param {string} [offset]
   */
  async bytes(offset) {
    return Buffer.concat((await this.pages(offset)).map((page) => page.body));
  }

  /**
   * Everything in a JSON stream.
   *
   * @param {string} [offset]
   */
  async messages(offset) {
    return (await this.pages(offset)).flatMap((page) => page.json());
  }

  /** Returns the statistics of the stream's object, which only the test build has. */
  async statistics() {
    const answer = await this.request("GET", { headers: { "X-Test-Op": "stats" } });
    if (answer.status !== 200) throw new Error(`stats answered ${answer.status}: ${answer.text}`);
    const statistics = answer.json();
    // The runtime has its own table in each object that has ever set an alarm.
    statistics.tables = statistics.tables.filter((name) => !name.startsWith("_cf_"));
    return statistics;
  }
}
