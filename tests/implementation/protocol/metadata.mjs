import { expect } from "vitest";
import { producer, Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectText } from "./assertions.mjs";

// Headers that say something about the stream itself; HEAD and a GET that reads to the tail must
// agree on them.
const metadata = [
  "content-type",
  "stream-next-offset",
  "stream-closed",
  "x-content-type-options",
  "cross-origin-resource-policy",
  "access-control-allow-origin",
  "access-control-expose-headers",
];

export const rows = [
  {
    section: "5.4",
    clause: "a delete answers 204 without a body, and the stream is gone for every method",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "a" });
      const answer = await stream.delete();
      expect(answer.status).toBe(204);
      expect(answer.body.length).toBe(0);
      expectRefusal(await stream.append("b"), 404);
      expectRefusal(await stream.close(), 404);
      for (const query of [
        "?offset=-1",
        "?offset=now",
        "?offset=-1&live=long-poll",
        "?offset=-1&live=sse",
        `?offset=${stream.start}`,
      ]) {
        expectRefusal(await stream.get(query), 404);
      }
      await expectAbsent(stream);
    },
  },
  {
    section: "5.4",
    clause: "deleting an unknown stream answers 404",
    async check({ base }) {
      expectRefusal(await new Stream(base).delete(), 404);
    },
  },
  {
    section: "5.4",
    clause: "a closed stream can be deleted",
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-Closed": "true" } });
      expect((await stream.delete()).status).toBe(204);
      await expectAbsent(stream);
    },
  },
  {
    section: "5.4",
    clause:
      "a name used again has no data, type, closure, sequence, producers or TTL of the old stream",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "old", headers: { "Stream-TTL": "3600" } });
      await stream.append("old", { "Stream-Seq": "z", ...producer("p", 9, 0) });
      await stream.close();
      await stream.delete();
      stream.contentType = "text/html";
      expect((await stream.put()).status).toBe(201);
      const head = await stream.head();
      expect(head.headers["content-type"]).toBe("text/html");
      expect(head.headers["stream-ttl"]).toBeUndefined();
      expect(head.closed).toBeUndefined();
      await expectText(stream, "");
      expect(
        (await stream.append("new", { "Stream-Seq": "a", ...producer("p", 0, 0) })).status,
      ).toBe(200);
      await expectText(stream, "new");
    },
  },
  {
    section: "5.4",
    clause: "a waiting long-poll is answered 404 when its stream is deleted",
    async check({ base }) {
      const stream = await Stream.create(base);
      const waiting = stream.longPoll(stream.start);
      await new Promise((resolve) => setTimeout(resolve, 100));
      await stream.delete();
      expectRefusal(await waiting, 404);
    },
  },
  {
    section: "5.4",
    clause: "an SSE read ends when its stream is deleted, and does not say that it was closed",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "a" });
      const reader = await stream.events("-1");
      await reader.upToDate();
      await stream.delete();
      await reader.end({ timeoutMs: 3_000 });
      expect(reader.controls.some((control) => control.streamClosed)).toBe(false);
    },
  },
  {
    section: "5.5",
    clause: "HEAD returns content type and tail without a body, and is never cached",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const head = await stream.head();
      expect(head.status).toBe(200);
      expect(head.body.length).toBe(0);
      expect(head.headers["content-type"]).toBe("text/plain");
      expect(head.offset).toBe(stream.start);
      expect(head.closed).toBeUndefined();
      expect(head.headers["cache-control"]).toMatch(/\bno-store\b/);
    },
  },
  {
    section: "5.5",
    clause: "HEAD of an unknown stream answers 404 without a body",
    async check({ base }) {
      const head = await new Stream(base).head();
      expect(head.status).toBe(404);
      expect(head.body.length).toBe(0);
      expect(head.headers["cache-control"]).toMatch(/\bno-store\b/);
    },
  },
  {
    section: "5.5",
    clause: "HEAD returns the TTL as it was set",
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-TTL": "3600" } });
      const head = await stream.head();
      expect(head.headers["stream-ttl"]).toBe("3600");
      expect(head.headers["stream-expires-at"]).toBeUndefined();
    },
  },
  {
    section: "5.5",
    clause: "HEAD of a stream without expiry has no expiry headers",
    async check({ base }) {
      const { headers } = await (await Stream.create(base)).head();
      expect(headers["stream-ttl"]).toBeUndefined();
      expect(headers["stream-expires-at"]).toBeUndefined();
    },
  },
  ...[
    ["an empty stream", {}],
    ["a stream with data", { body: "abc" }],
    ["a closed stream", { body: "abc", headers: { "Stream-Closed": "true" } }],
    ["a binary stream", { body: "abc", contentType: "application/octet-stream" }],
    ["a JSON stream", { body: "[1,2]", contentType: "application/json" }],
  ].map(([what, options]) => ({
    section: "5.5",
    clause: `HEAD of ${what} agrees with a GET to the tail`,
    async check({ base }) {
      const stream = await Stream.create(base, options);
      const [head, read] = await Promise.all([stream.head(), stream.get()]);
      expect(read.upToDate).toBe("true");
      for (const name of metadata) expect(head.headers[name], name).toBe(read.headers[name]);
    },
  })),
];
