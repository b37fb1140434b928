// The server is killed repeatedly under load. Everything that it acknowledged must be stored once,
// in order, at the offset that it returned. DURABILITY_KILLS and DURABILITY_WRITERS say how often,
// and with how many writers.

import http from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const rounds = Number(process.env.DURABILITY_KILLS || 20);
const streamCount = 4;
// The number of rounds with the same streams. Each round reads all of its streams, so that more
// rounds would take longer and longer.
const generationRounds = 20;
const writerCount = Number(process.env.DURABILITY_WRITERS || 16);
// So few that kills often coincide with a change of segments.
const env = { SEGMENT_MAX_MESSAGES: 700, LONG_POLL_TIMEOUT_MS: 1_000 };

const range = (count) => Array.from({ length: count }, (_, index) => index);

/**
 * A writer with a ledger of its messages and their acknowledgements, over all restarts.
 */
class Writer {
  acknowledged = []; // { text, offset }
  unknown = []; // texts that were sent once and never answered
  pending; // the producer's request that was not answered
  sent = 0;

  constructor(index) {
    this.index = index;
    this.idempotent = index % 2 === 0;
    this.id = `writer-${index}`;
  }

  #next() {
    const text = JSON.stringify([this.index, this.sent, "x".repeat((this.sent * 7) % 90)]);
    const body = { text: text, seq: this.sent };
    this.sent += 1;
    return body;
  }

  send(stream, { text, seq }, agent) {
    // The message is an array, which the protocol takes for a batch. So it is sent as a batch of
    // one.
    return stream.append(`[${text}]`, this.idempotent ? producer(this.id, 0, seq) : {}, {
      agent,
      timeoutMs: 10_000,
    });
  }

  async write(stream, agent, stopped) {
    while (!stopped()) {
      const message = this.#next();
      const answer = await this.send(stream, message, agent).catch(() => undefined);
      if (!answer) {
        if (this.idempotent) this.pending = message;
        else this.unknown.push(message.text);
        return;
      }
      expect(answer.status, answer.text).toBe(this.idempotent ? 200 : 204);
      this.acknowledged.push({ text: message.text, offset: answer.offset });
      this.last = message;
    }
  }

  /**
   * After a restart, sends again what was not answered. The server recognises what it has stored.
   */
  async recover(stream, agent, counts) {
    if (!this.idempotent) return;
    if (this.last) {
      const again = await this.send(stream, this.last, agent);
      expect(again.status).toBe(204);
      counts.duplicates += 1;
    }
    if (!this.pending) return;
    const retried = await this.send(stream, this.pending, agent);
    expect([200, 204]).toContain(retried.status);
    counts[retried.status === 200 ? "retriedNew" : "retriedKnown"] += 1;
    const once = await this.send(stream, this.pending, agent);
    expect(once.status).toBe(204);
    this.acknowledged.push({
      text: this.pending.text,
      offset: retried.status === 200 ? retried.offset : undefined,
    });
    this.last = this.pending;
    this.pending = undefined;
  }
}

/** Compares a whole stream with the ledgers of its writers. */
async function verify(stream, writers, counts) {
  const stored = (await stream.messages()).map((message) => JSON.stringify(message));
  const position = new Map(stored.map((text, index) => [text, index]));
  expect(position.size, "a message is stored twice").toBe(stored.length);

  const known = new Set();
  const offsets = [];
  for (const writer of writers) {
    let previous = -1;
    for (const { text, offset } of writer.acknowledged) {
      const index = position.get(text);
      expect(index, `acknowledged and lost: ${text}`).toBeDefined();
      expect(index).toBeGreaterThan(previous);
      previous = index;
      known.add(text);
      if (offset !== undefined) offsets.push({ index, offset });
    }
    for (const text of writer.unknown) {
      known.add(text);
      counts[position.has(text) ? "unknownStored" : "unknownLost"] += 1;
    }
    if (writer.pending) known.add(writer.pending.text);
  }
  for (const text of stored) expect(known.has(text), `never sent: ${text}`).toBe(true);

  // The writers' offsets are in the order of the messages. A read from an offset returns the
  // message after it.
  offsets.sort((a, b) => a.index - b.index);
  for (const [place, { offset }] of offsets.entries()) {
    if (place > 0) expect(offset > offsets[place - 1].offset).toBe(true);
  }
  for (const { index, offset } of range(25)
    .map(() => offsets[Math.floor(Math.random() * offsets.length)])
    .filter(Boolean)) {
    const page = await stream.read(offset);
    expect(page.status).toBe(200);
    const first = page.json()[0];
    expect(first === undefined ? undefined : JSON.stringify(first)).toBe(stored[index + 1]);
    counts.offsets += 1;
  }
  return stored.length;
}

/** The streams of some rounds, and what their writers know of them. */
class Generation {
  stored = [];

  constructor(number) {
    this.names = range(streamCount).map((index) => `durability-${number}-${index}`);
    this.writers = range(writerCount).map((index) => new Writer(index));
  }

  streams(server) {
    return this.names.map((name) => new Stream(server.url, name, "application/json"));
  }

  async create(server) {
    for (const stream of this.streams(server)) expect((await stream.put()).status).toBe(201);
  }

  /** Writes until the server is killed at a random time. */
  async writeUntilKill(server) {
    const agent = new http.Agent({ keepAlive: true });
    const streams = this.streams(server);
    let stopped = false;
    const writing = this.writers.map((writer) =>
      writer.write(streams[writer.index % streamCount], agent, () => stopped),
    );
    await sleep(150 + Math.random() * 650);
    await server.kill();
    stopped = true;
    await Promise.all(writing);
    agent.destroy();
  }

  async recover(server, counts) {
    const agent = new http.Agent({ keepAlive: true });
    const streams = this.streams(server);
    for (const writer of this.writers)
      await writer.recover(streams[writer.index % streamCount], agent, counts);
    agent.destroy();
  }

  /** Compares all streams with the ledgers. Nothing may be less than it was. */
  async verify(server, counts) {
    const found = { unknownStored: 0, unknownLost: 0, offsets: 0 };
    this.stored = [];
    for (const [index, stream] of this.streams(server).entries()) {
      const own = this.writers.filter((writer) => writer.index % streamCount === index);
      this.stored.push(await verify(stream, own, found));
    }
    expect(found.unknownStored).toBeGreaterThanOrEqual(this.unknown?.unknownStored ?? 0);
    expect(found.unknownLost).toBeGreaterThanOrEqual(this.unknown?.unknownLost ?? 0);
    this.unknown = found;
    counts.offsets += found.offsets;
  }
}

test(`no acknowledged append is lost or doubled over ${rounds} kills under load`, async () => {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-kill-"));
  const counts = { duplicates: 0, retriedNew: 0, retriedKnown: 0, offsets: 0 };
  const generations = [];
  let server = await startServer({ dataDirectory, env });
  try {
    for (let round = 0; round < rounds; round += 1) {
      if (round % generationRounds === 0) {
        generations.push(new Generation(generations.length));
        await generations.at(-1).create(server);
      }
      const generation = generations.at(-1);
      await generation.writeUntilKill(server);
      server = await startServer({ dataDirectory, env });
      await generation.recover(server, counts);
      await generation.verify(server, counts);
    }
    // Later kills have taken nothing of the earlier streams.
    for (const generation of generations) await generation.verify(server, counts);

    const sum = (numbers) => numbers.reduce((all, number) => all + number, 0);
    const acknowledged = sum(
      generations.flatMap(({ writers }) => writers.map((writer) => writer.acknowledged.length)),
    );
    expect(acknowledged).toBeGreaterThan(rounds * writerCount);
    console.log(
      `durability: ${rounds} kills with ${writerCount} writers, ${acknowledged} appends acknowledged and found, ${sum(generations.flatMap(({ stored }) => stored))} stored; ` +
        `${counts.offsets} acknowledged offsets read from; unanswered sends of plain writers: ${sum(generations.map(({ unknown }) => unknown.unknownStored))} stored, ${sum(generations.map(({ unknown }) => unknown.unknownLost))} not; ` +
        `unanswered requests of producers: ${counts.retriedKnown} were stored, ${counts.retriedNew} not; ${counts.duplicates} duplicates recognised`,
    );
  } finally {
    await server.kill();
    await rm(dataDirectory, { recursive: true, force: true });
  }
}, 60_000 + rounds * 6_000);

test("creation, closing, configuration and deletion survive a kill", async () => {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-state-"));
  let server = await startServer({ dataDirectory, env });
  try {
    const open = await Stream.create(server.url, {
      contentType: "text/x-special; a=b",
      body: "open",
      headers: { "Stream-TTL": "3600" },
    });
    const closed = await Stream.create(server.url, { body: "closed" });
    const final = await closed.append("!", { ...producer("p", 3, 0), "Stream-Closed": "true" });
    const sequenced = await Stream.create(server.url);
    await sequenced.append("a", { "Stream-Seq": "m" });
    const deleted = await Stream.create(server.url, { body: "deleted" });
    await deleted.delete();
    const { etag } = await closed.get();
    await server.kill();
    server = await startServer({ dataDirectory, env });
    for (const stream of [open, closed, sequenced, deleted]) stream.base = server.url;

    const head = await open.head();
    expect(head.headers["content-type"]).toBe("text/x-special; a=b");
    expect(head.headers["stream-ttl"]).toBe("3600");
    expect((await open.get()).text).toBe("open");
    expect((await open.put({ headers: { "Stream-TTL": "3600" } })).status).toBe(200);

    const read = await closed.get();
    expect(read.text).toBe("closed!");
    expect(read.closed).toBe("true");
    expect(read.etag).toBe(etag);
    const retry = await closed.append("!", { ...producer("p", 3, 0), "Stream-Closed": "true" });
    expect(retry.status).toBe(204);
    expect(retry.offset).toBe(final.offset);
    expect((await closed.append("more")).status).toBe(409);

    expect((await sequenced.append("b", { "Stream-Seq": "m" })).status).toBe(409);
    expect((await sequenced.append("b", { "Stream-Seq": "n" })).status).toBe(204);
    expect((await deleted.get()).status).toBe(404);
  } finally {
    await server.kill();
    await rm(dataDirectory, { recursive: true, force: true });
  }
});

test("a stream that expires while the server is down is gone when it is back", async () => {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-expiry-"));
  let server = await startServer({ dataDirectory, env });
  try {
    const stream = await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "1" } });
    await server.kill();
    await sleep(1_200);
    server = await startServer({ dataDirectory, env });
    stream.base = server.url;
    expect((await stream.get()).status).toBe(404);
    expect((await stream.put()).status).toBe(201);
  } finally {
    await server.kill();
    await rm(dataDirectory, { recursive: true, force: true });
  }
});
