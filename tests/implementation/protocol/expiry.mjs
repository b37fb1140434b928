import { expect } from "vitest";
import { eventually, sleep } from "../../harness/http.mjs";
import { producer, Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectText } from "./assertions.mjs";

// Uses of a stream with a TTL. Repeated every 3 s, they keep a stream with a TTL of 5 s alive.
const uses = [
  ["a read", (stream) => stream.get()],
  ["a read at the tail", (stream) => stream.read(stream.start)],
  ["a read from now", (stream) => stream.read("now")],
  [
    "a read that is answered 304",
    async (stream) => {
      stream.etag ??= (await stream.get()).etag;
      return stream.get("", { "If-None-Match": stream.etag });
    },
  ],
  ["a long-poll", (stream) => stream.longPoll("-1")],
  ["a long-poll that waits", (stream) => stream.longPoll("now")],
  ["an SSE read", async (stream) => (await stream.events("-1")).close()],
  ["an append", (stream) => stream.append("x")],
  [
    "an append of a producer",
    (stream) => {
      stream.sequence = (stream.sequence ?? -1) + 1;
      return stream.append("x", producer("p", 0, stream.sequence));
    },
  ],
];

const past = new Date(Date.now() - 60_000).toISOString();
const inSeconds = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();

function expires(stream) {
  return eventually("expiry", async () => (await stream.head()).status === 404);
}

export const rows = [
  ...uses.map(([what, use]) => ({
    section: "5.1",
    clause: `${what} restarts the TTL, and without it the stream expires`,
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc", headers: { "Stream-TTL": "5" } });
      for (let round = 0; round < 3; round += 1) {
        await sleep(3_000);
        await use(stream);
      }
      expect((await stream.head()).status).toBe(200);
      await sleep(5_100);
      await expires(stream);
      await expectAbsent(stream);
    },
  })),
  {
    section: "5.1",
    clause: "a close restarts the TTL, with and without a producer",
    concurrent: true,
    async check({ base }) {
      const streams = await Promise.all(
        [1, 2].map(() => Stream.create(base, { headers: { "Stream-TTL": "5" } })),
      );
      await sleep(3_000);
      await streams[0].close();
      await streams[1].close(producer("p", 0, 0));
      await sleep(3_000);
      for (const stream of streams) expect((await stream.head()).status).toBe(200);
      await sleep(2_100);
      for (const stream of streams) await expires(stream);
    },
  },
  {
    section: "5.1",
    clause: "HEAD does not restart the TTL",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc", headers: { "Stream-TTL": "4" } });
      const begun = performance.now();
      while (performance.now() - begun < 2_000) {
        expect((await stream.head()).status).toBe(200);
        await sleep(300);
      }
      // Less than the TTL, so that a TTL that HEAD has restarted would go on.
      await sleep(2_500);
      expect((await stream.head()).status).toBe(404);
    },
  },
  {
    section: "5.1",
    clause: "a TTL of 0 expires at once, and the name is free",
    async check({ base }) {
      const stream = new Stream(base);
      expect((await stream.put({ body: "abc", headers: { "Stream-TTL": "0" } })).status).toBe(201);
      await expectAbsent(stream);
      expectRefusal(await stream.append("x"), 404);
      expect((await stream.put({ body: "new" })).status).toBe(201);
      await expectText(stream, "new");
    },
  },
  {
    section: "5.1",
    clause: "a stream that expires in the past is refused or gone at once",
    async check({ base }) {
      const stream = new Stream(base);
      const answer = await stream.put({ body: "abc", headers: { "Stream-Expires-At": past } });
      expect([201, 400]).toContain(answer.status);
      await expectAbsent(stream);
    },
  },
  {
    section: "4",
    clause: "an expired stream answers 404 to every method, and its name can be used again",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "old", headers: { "Stream-TTL": "1" } });
      await stream.append("old", { "Stream-Seq": "z", ...producer("p", 9, 0) });
      await sleep(1_100);
      await expires(stream);
      expectRefusal(await stream.append("x"), 404);
      expectRefusal(await stream.close(), 404);
      for (const query of ["?offset=now", "?offset=-1&live=long-poll", "?offset=-1&live=sse"])
        expectRefusal(await stream.get(query), 404);
      await expectAbsent(stream);
      stream.contentType = "application/json";
      expect((await stream.put()).status).toBe(201);
      expect((await stream.append("1", { "Stream-Seq": "a", ...producer("p", 0, 0) })).status).toBe(
        200,
      );
      expect((await stream.get()).text).toBe("[1]");
    },
  },
  {
    section: "5.1",
    clause: "reads and writes do not change an absolute expiry",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-Expires-At": inSeconds(5) } });
      const begun = performance.now();
      while (performance.now() - begun < 2_500) {
        expect((await stream.append("x")).status).toBe(204);
        expect((await stream.get()).status).toBe(200);
        await sleep(200);
      }
      await sleep(3_000);
      await expectAbsent(stream);
    },
  },
  {
    section: "5.1",
    clause: "a stream with a reader on SSE does not expire",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-TTL": "2" } });
      const reader = await stream.events("-1");
      await reader.upToDate();
      await sleep(3_000);
      expect((await stream.append("still here")).status).toBe(204);
      expect((await reader.next({ type: "data" })).data).toBe("still here");
      reader.close();
    },
  },
  {
    section: "5.1",
    clause: "a stream with a reader on long-poll does not expire",
    concurrent: true,
    only: "own",
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-TTL": "3" } });
      const begun = performance.now();
      while (performance.now() - begun < 8_000)
        expect((await stream.longPoll(stream.start)).status).toBe(204);
      expect((await stream.append("still here")).status).toBe(204);
    },
  },
  {
    section: "4",
    clause: "an absolute expiry ends an SSE read",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "abc",
        headers: { "Stream-Expires-At": inSeconds(3) },
      });
      const reader = await stream.events("-1");
      await reader.upToDate();
      const begun = performance.now();
      // Less than the age at which every read ends (SSE_MAX_AGE_MS).
      await reader.end({ timeoutMs: 5_500 });
      expect(performance.now() - begun).toBeGreaterThan(500);
      expect(reader.controls.some((control) => control.streamClosed)).toBe(false);
      await expectAbsent(stream);
    },
  },
];
