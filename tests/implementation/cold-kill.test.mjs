// The server is killed repeatedly while it moves segments to the cold tier. It must have all that
// it acknowledged, and nothing else.

import http from "node:http";
import { rm } from "node:fs/promises";
import { expect, test } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { scratchDirectory, shell, startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const rounds = 50;
const streamCount = 3;
const writersOfStream = 3;
const env = {
  // Reads pages, because each read up to the tail would fetch every segment again.
  CACHE_MODE: "shared",
  SEGMENT_MAX_MESSAGES: 5,
  COLLECT_GRACE_MS: 3_000,
  RETRY_MIN_MS: 50,
  RETRY_MAX_MS: 500,
  PUT_TIMEOUT_MS: 1_500,
  REPLY_TIMEOUT_MS: 1_500,
};
const faults = {
  put: { fail: 0.05, lie: 0.05, delayMs: 20 },
  delete: { fail: 0.1, lie: 0.1 },
  index: { fail: 0.1, lie: 0.1 },
};

const range = (count) => Array.from({ length: count }, (_, index) => index);

/** A producer that sends one message after the other, and repeats a message without an answer. */
class Writer {
  offsets = [];

  constructor(index) {
    this.index = index;
  }

  async write(stream, agent, stopped) {
    while (!stopped()) {
      const seq = this.offsets.length;
      const answer = await stream
        .append(`[[${this.index},${seq}]]`, producer(`writer-${this.index}`, 0, seq), {
          agent,
          timeoutMs: 10_000,
        })
        .catch(() => undefined);
      if (!answer) return;
      expect([200, 204], answer.text).toContain(answer.status);
      // The answer to a duplicate has the tail, not the offset of the first copy.
      this.offsets.push(answer.status === 200 ? answer.offset : undefined);
    }
  }
}

/**
 * Checks that the messages are those of the ledgers from the given positions, once and in order.
 */
function verify(messages, writers, from) {
  const next = from.slice();
  for (const [index, seq] of messages) {
    expect(seq, `of writer ${index}`).toBe(next[index]);
    next[index] += 1;
  }
  for (const writer of writers) {
    // One more message may be stored without an answer.
    expect(next[writer.index], `stored of writer ${writer.index}`).toBeGreaterThanOrEqual(
      writer.offsets.length,
    );
    expect(next[writer.index]).toBeLessThanOrEqual(writer.offsets.length + 1);
  }
  return next;
}

const tiers = shell === "server" ? ["directory", "s3"] : [true];

test.each(tiers)(
  `nothing acknowledged is lost and no object is left over ${rounds} kills during rotation (%s)`,
  async (cold) => {
    const dataDirectory = await scratchDirectory("cold-kill", { cold: true });
    const streams = range(streamCount).map((index) => ({
      name: `killed-${index}`,
      writers: range(writersOfStream).map((each) => new Writer(each)),
      verified: { offset: "-1", next: range(writersOfStream).map(() => 0) },
    }));
    const handle = (server, name) => new Stream(server.url, name, "application/json");
    let server = await startServer({ dataDirectory, env, cold });
    try {
      for (const { name } of streams) expect((await handle(server, name).put()).status).toBe(201);
      for (let round = 0; round < rounds; round += 1) {
        const agent = new http.Agent({ keepAlive: true });
        await server.coldTier.disturb(faults);
        let stopped = false;
        const writing = streams.flatMap(({ name, writers }) =>
          writers.map((writer) => writer.write(handle(server, name), agent, () => stopped)),
        );
        await sleep(60 + Math.random() * 300);
        await server.kill();
        stopped = true;
        await Promise.all(writing);
        agent.destroy();
        server = await startServer({ dataDirectory, env, cold });
        for (const stream of streams) {
          const pages = await handle(server, stream.name).pages(stream.verified.offset);
          stream.verified = {
            offset: pages.at(-1).offset,
            next: verify(
              pages.flatMap((page) => page.json()),
              stream.writers,
              stream.verified.next,
            ),
          };
        }
      }

      let objects = 0;
      let segments = 0;
      let messages = [];
      for (const { name } of streams) expect((await handle(server, name).close()).status).toBe(204);
      for (const { name, writers } of streams) {
        await eventually(
          "a cold tier with the stream's segments and nothing else",
          async () => {
            const rows = await server.coldTier.segmentsOf(handle(server, name));
            const keys = (await server.coldTier.objectsOf(name)).map(({ key }) => key);
            [objects, segments, messages] = [
              keys.length,
              rows.length,
              await handle(server, name).messages(),
            ];
            const inSegments = rows.reduce((sum, row) => sum + row.messages, 0);
            return (
              inSegments === messages.length &&
              keys.join() ===
                rows
                  .map(({ r2_key }) => r2_key)
                  .sort()
                  .join()
            );
          },
          { timeoutMs: 40_000, everyMs: 250 },
        );
        verify(
          messages,
          writers,
          writers.map(() => 0),
        );
        const place = new Map(messages.map((message, index) => [message.join(), index]));
        for (const { index, offsets } of writers) {
          for (const seq of range(offsets.length).filter(() => Math.random() < 0.05)) {
            if (offsets[seq] === undefined) continue;
            const page = await handle(server, name).read(offsets[seq]);
            expect(page.json()[0]).toEqual(messages[place.get(`${index},${seq}`) + 1]);
          }
        }
        console.log(
          `${name}: ${rounds} kills, ${writers.reduce((sum, { offsets }) => sum + offsets.length, 0)} acknowledged, ${messages.length} stored; ${segments} segments, ${objects} objects`,
        );
        expect(segments).toBeGreaterThan(rounds / 2);
      }
    } finally {
      await server.kill();
      await rm(dataDirectory, { recursive: true, force: true });
    }
  },
  900_000,
);
