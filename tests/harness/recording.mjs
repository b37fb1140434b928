// Runs the real server for one machine under load, with recorder.c loaded. The result is what it
// wrote and what its clients learnt, in one order.

import http from "node:http";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { sleep } from "./http.mjs";
import { startOneMachine } from "./one-machine.mjs";
import { kind, records } from "./power-cut.mjs";
import { preloaded } from "./preload.mjs";
import { Random } from "./random.mjs";
import { producer, Stream } from "./stream.mjs";

const streamCount = 5;
const writerCount = 10;
const syncUsMax = 3_000;
const startAttemptsMax = 50;

/**
 * What an answer told a client. `at` is the record by which the answer had left the server.
 *
 * - `exists`: the stream exists.
 * - `leaving`: from now on, its client may delete it.
 * - `deleted`: the stream is deleted.
 * - `stored`: the append is stored, and `offset` follows it. `isProducer` if it can be repeated.
 * - `seen`: the append is stored, as a reader has seen.
 *
 * @typedef {object} Fact
 * @property {"exists" | "leaving" | "deleted" | "stored" | "seen"} what
 * @property {string} stream
 * @property {string} [text]
 * @property {string} [offset]
 * @property {{ id: string, seq: number }} [producer]
 * @property {number} at
 */

/** Settings that make a server seal often. */
export const settings = (withCold) => ({
  SEGMENT_MAX_MESSAGES: 90,
  LONG_POLL_TIMEOUT_MS: 1_000,
  SHARDS: 2,
  LOG: "error,durable_streams=info",
  ...(withCold ? {} : { COLD: "none" }),
});

/** One life of the server, and the clients that use it. */
class Recorder {
  life = 0;
  /** How many answers came on each port, as `life:port`. */
  #answers = new Map();
  /** @type {(Omit<Fact, "at"> & { answer: string })[]} */
  #facts = [];
  /** Every text that was sent to a stream. */
  sent = new Map();
  #base;
  agent;
  #isOver = false;
  #random;

  constructor(random) {
    this.#random = random;
  }

  begin(base) {
    this.#base = base;
    this.agent = new http.Agent({ keepAlive: true });
  }

  pause() {
    this.#base = undefined;
    this.agent?.destroy();
  }

  end() {
    this.#isOver = true;
  }

  /**
   * Makes a request once the server runs. Returns nothing if it was not answered.
   *
   * @param {Stream} stream
   * @param {(options: { agent: http.Agent }) => Promise<import("./http.mjs").Answer>} send
   */
  async ask(stream, send) {
    while (!this.#base && !this.#isOver) await sleep(5);
    if (this.#isOver) return undefined;
    stream.base = this.#base;
    const life = this.life;
    const answer = await send({ agent: this.agent }).catch(() => undefined);
    if (!answer) {
      await sleep(2);
      return undefined;
    }
    const connection = `${life}:${answer.port}`;
    const index = this.#answers.get(connection) ?? 0;
    this.#answers.set(connection, index + 1);
    // A shard that is closed says so at once.
    if (answer.status === 503) await sleep(5);
    return { answer, place: `${connection}:${index}` };
  }

  fact(place, fact) {
    this.#facts.push({ ...fact, answer: place });
  }

  text(stream, writer, number) {
    const size = this.#random.oneIn(12) ? 5_000 : this.#random.oneIn(150) ? 60_000 : 120;
    const text = `${writer}.${number}.${"x".repeat(this.#random.below(size))}\n`;
    if (!this.sent.has(stream.name)) this.sent.set(stream.name, new Set());
    this.sent.get(stream.name).add(text);
    return text;
  }

  async write(stream, writer) {
    const isProducer = writer % 2 === 0;
    const id = `writer-${writer}`;
    for (let seq = 0; !this.#isOver; seq += 1) {
      const text = this.text(stream, id, seq);
      for (;;) {
        const headers = isProducer ? producer(id, 0, seq) : {};
        const reply = await this.ask(stream, (options) => stream.append(text, headers, options));
        if (this.#isOver) return;
        if (reply && [200, 204].includes(reply.answer.status)) {
          this.fact(reply.place, {
            what: "stored",
            stream: stream.name,
            text,
            // The answer to a repetition need not have the append's own offset.
            ...(isProducer && reply.answer.status === 204 ? {} : { offset: reply.answer.offset }),
            ...(isProducer ? { producer: { id, seq } } : {}),
          });
        } else if (reply && reply.answer.status !== 503) {
          throw new Error(`an append was answered ${reply.answer.status}: ${reply.answer.text}`);
        } else if (isProducer) continue;
        break;
      }
    }
  }

  async read(stream) {
    let offset = "-1";
    let rest = "";
    while (!this.#isOver) {
      const reply = await this.ask(stream, (options) => stream.longPoll(offset, options));
      if (!reply || reply.answer.status === 503) continue;
      const { status, text, offset: next } = reply.answer;
      if (![200, 204].includes(status)) throw new Error(`a read was answered ${status}: ${text}`);
      offset = next;
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines)
        this.fact(reply.place, { what: "seen", stream: stream.name, text: `${line}\n` });
    }
  }

  /** Creates streams, and deletes them. */
  async comeAndGo(label) {
    for (let number = 0; !this.#isOver; number += 1) {
      const stream = new Stream("", `${label}-${number}`);
      const created = await this.ask(stream, (options) =>
        stream.request("PUT", { headers: { "Content-Type": stream.contentType }, ...options }),
      );
      if (created?.answer.status !== 201) continue;
      this.fact(created.place, { what: "exists", stream: stream.name });
      let last = created.place;
      for (let count = this.#random.below(30); count > 0 && last; count -= 1) {
        const text = this.text(stream, label, count);
        const reply = await this.ask(stream, (options) => stream.append(text, {}, options));
        last = reply?.place;
        if (reply?.answer.status === 204)
          this.fact(last, {
            what: "stored",
            stream: stream.name,
            text,
            offset: reply.answer.offset,
          });
      }
      // Without an answer it stays.
      if (!last) continue;
      this.fact(last, { what: "leaving", stream: stream.name });
      const deleted = await this.ask(stream, (options) => stream.request("DELETE", options));
      if (deleted?.answer.status === 204)
        this.fact(deleted.place, { what: "deleted", stream: stream.name });
    }
  }

  async create(stream) {
    for (;;) {
      const reply = await this.ask(stream, (options) =>
        stream.request("PUT", { headers: { "Content-Type": stream.contentType }, ...options }),
      );
      if (this.#isOver) return;
      if (![200, 201].includes(reply?.answer.status)) continue;
      return this.fact(reply.place, { what: "exists", stream: stream.name });
    }
  }

  /** @returns {Fact[]} */
  facts(all) {
    const left = answersLeft(all);
    return this.#facts
      .map(({ answer, ...fact }) => ({ ...fact, at: left.get(answer) }))
      .sort((one, other) => one.at - other.at);
  }
}

/** Returns the record by which each answer had left, by life, port and number. */
function answersLeft(all) {
  const left = new Map();
  let life = 0;
  /** @type {Map<number, { bytes: string, count: number }>} */
  let connections = new Map();
  for (const [at, record] of all.entries()) {
    if (record.kind === kind.start) {
      life += 1;
      connections = new Map();
    }
    if (record.kind !== kind.sent) continue;
    const connection = connections.get(record.handle) ?? { bytes: "", count: 0 };
    connections.set(record.handle, connection);
    connection.bytes += record.content.toString("latin1");
    for (let end = answerEnd(connection.bytes); end > 0; end = answerEnd(connection.bytes)) {
      left.set(`${life}:${record.handle}:${connection.count}`, at);
      connection.count += 1;
      connection.bytes = connection.bytes.slice(end);
    }
  }
  return left;
}

/** Returns where the first answer ends, or 0 if it is not whole. */
function answerEnd(bytes) {
  const head = bytes.indexOf("\r\n\r\n") + 4;
  if (head < 4) return 0;
  const status = Number(bytes.slice(9, 12));
  if (status === 204 || status === 304) return head;
  const fields = bytes.slice(0, head).toLowerCase();
  const length = /\r\ncontent-length: (\d+)/.exec(fields);
  if (length) {
    const end = head + Number(length[1]);
    return end <= bytes.length ? end : 0;
  }
  if (!fields.includes("\r\ntransfer-encoding: chunked")) throw new Error(`no length: ${fields}`);
  for (let at = head; ; ) {
    const line = bytes.indexOf("\r\n", at);
    if (line < 0) return 0;
    const size = parseInt(bytes.slice(at, line), 16);
    at = line + 2 + size + 2;
    if (at > bytes.length) return 0;
    if (size === 0) return at;
  }
}

/**
 * Records a server that is killed and started again a few times. Its data is in `root/data`.
 *
 * @param {object} options
 * @param {string} options.binary
 * @param {string} options.directory
 * @param {number} options.seed
 * @param {number} options.failPermille
 * @param {boolean} options.withCold
 */
export async function record({ binary, directory, seed, failPermille, withCold }) {
  const random = new Random(seed);
  const root = path.join(directory, "root");
  const log = path.join(directory, "log");
  await mkdir(root, { recursive: true });
  const library = preloaded("tests/harness/recorder.c");
  const recorder = new Recorder(random);
  const start = (count, failAfter) =>
    startOneMachine({
      binary,
      dataDirectory: path.join(root, "data"),
      env: {
        ...settings(withCold),
        ...(withCold ? { COLD: path.join(root, "data", "cold") } : {}),
        LD_PRELOAD: library,
        RECORD_ROOT: root,
        RECORD_LOG: log,
        RECORD_SEED: random.below(2 ** 31),
        RECORD_COUNT: count,
        RECORD_SYNC_US_MAX: syncUsMax,
        RECORD_FAIL_PERMILLE: failPermille,
        RECORD_FAIL_AFTER: failAfter,
      },
    });

  const streams = Array.from({ length: streamCount }, (_, index) => new Stream("", `s-${index}`));
  const clients = (async () => {
    await Promise.all(streams.map((stream) => recorder.create(stream)));
    await Promise.all([
      ...streams.map((stream) => recorder.read(new Stream("", stream.name))),
      ...Array.from({ length: writerCount }, (_, index) =>
        recorder.write(new Stream("", streams[index % streamCount].name), index),
      ),
      recorder.comeAndGo("short"),
      recorder.comeAndGo("brief"),
    ]);
  })();
  try {
    for (let lives = 1 + random.below(3); lives > 0; lives -= 1) {
      const isFirst = recorder.life === 0;
      let server;
      for (let attempt = 0; !server; attempt += 1) {
        recorder.life += 1;
        const failAfter = isFirst ? 40 : attempt + random.below(10);
        server = await start(1_500 + random.below(9_000), failAfter).catch((error) => {
          if (attempt === startAttemptsMax || failPermille === 0) throw error;
        });
      }
      recorder.begin(server.url);
      await Promise.race([server.ended(), clients]);
      recorder.pause();
    }
  } finally {
    recorder.end();
  }
  await clients;
  const all = records(await readFile(log));
  return { root, all, facts: recorder.facts(all), sent: recorder.sent };
}
