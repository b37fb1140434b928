import { expect } from "vitest";
import { sleep } from "../../harness/http.mjs";
import { firstOffset, Stream } from "../../harness/stream.mjs";

const contents = [
  ["text/plain", "abc", ""],
  ["application/json", "[1,2]", "[]"],
  ["application/octet-stream", "abc", ""],
];

// The answer to a read without data, by mode, and by whether the stream is closed.
async function expectNothing(stream, mode, offset, tail, { closed, empty }) {
  if (mode === "catch-up") {
    const answer = await stream.read(offset);
    expect(answer.status).toBe(200);
    expect(answer.text).toBe(empty);
    expect(answer.offset).toBe(tail);
    expect(answer.upToDate).toBe("true");
    expect(answer.closed).toBe(closed ? "true" : undefined);
  } else if (mode === "long-poll") {
    const answer = await stream.longPoll(offset);
    expect(answer.status).toBe(204);
    expect(answer.offset).toBe(tail);
    expect(answer.upToDate).toBe("true");
    expect(answer.closed).toBe(closed ? "true" : undefined);
    if (!closed) expect(answer.cursor).toMatch(/^\d+$/);
  } else {
    const reader = await stream.events(offset);
    const { type, control } = await reader.next();
    expect(type).toBe("control");
    expect(control).toMatchObject({ streamNextOffset: tail, upToDate: true });
    if (closed) {
      expect(control).toEqual({ streamNextOffset: tail, upToDate: true, streamClosed: true });
      await reader.end();
      expect(reader.events).toHaveLength(1);
    } else {
      expect(control.streamCursor).toMatch(/^\d+$/);
      expect(control).not.toHaveProperty("streamClosed");
      reader.close();
    }
  }
}

async function expectContent(stream, mode, offset, tail, { closed, body, contentType }) {
  if (mode === "SSE") {
    const reader = await stream.events(offset);
    const control = await reader.upToDate();
    expect(contentType === "application/octet-stream" ? reader.bytes.toString() : reader.text).toBe(
      body,
    );
    expect(control.streamNextOffset).toBe(tail);
    expect(control.streamClosed).toBe(closed ? true : undefined);
    reader.close();
    return;
  }
  const answer = mode === "catch-up" ? await stream.read(offset) : await stream.longPoll(offset);
  expect(answer.status).toBe(200);
  expect(answer.text).toBe(body);
  expect(answer.offset).toBe(tail);
  expect(answer.upToDate).toBe("true");
  expect(answer.closed).toBe(closed ? "true" : undefined);
}

const sentinels = [];
for (const mode of ["catch-up", "long-poll", "SSE"]) {
  for (const closed of [false, true]) {
    for (const full of [false, true]) {
      for (const [contentType, body, empty] of contents) {
        for (const offset of ["-1", "now"]) {
          const nothing = offset === "now" || !full;
          sentinels.push({
            section: "8",
            clause: `offset=${offset}, ${mode}, ${closed ? "closed" : "open"} stream of ${contentType} ${full ? "with data" : "without data"}: ${nothing ? "only the tail" : "all of the data"}`,
            concurrent: true,
            async check({ base }) {
              const stream = await Stream.create(base, {
                contentType,
                body: full ? body : undefined,
                headers: closed ? { "Stream-Closed": "true" } : {},
              });
              if (nothing)
                await expectNothing(stream, mode, offset, stream.start, { closed, empty });
              else
                await expectContent(stream, mode, offset, stream.start, {
                  closed,
                  body,
                  contentType,
                });
            },
          });
        }
      }
    }
  }
}

export const rows = [
  ...sentinels,
  {
    section: "8",
    clause: "offset=now in catch-up mode is not kept by any cache and has no ETag",
    async check({ base }) {
      const answer = await (await Stream.create(base, { body: "abc" })).read("now");
      expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
      expect(answer.etag).toBeUndefined();
    },
  },
  {
    section: "8",
    clause: "offset=now on a closed stream says closed and up to date in the headers of every mode",
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "abc",
        headers: { "Stream-Closed": "true" },
      });
      const reader = await stream.events("now");
      for (const { headers } of [await stream.read("now"), await stream.longPoll("now"), reader]) {
        expect(headers["stream-closed"]).toBe("true");
        expect(headers["stream-up-to-date"]).toBe("true");
        expect(headers["stream-next-offset"]).toBe(stream.start);
      }
      reader.close();
    },
  },
  {
    section: "8",
    clause: "a long-poll from now returns only later appends",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "old" });
      const waiting = stream.longPoll("now");
      await sleep(100);
      const appended = await stream.append("new");
      const answer = await waiting;
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("new");
      expect(answer.offset).toBe(appended.offset);
    },
  },
  {
    section: "8",
    clause: "an SSE read from now returns only later appends",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "old" });
      const reader = await stream.events("now");
      expect((await reader.next()).control).toMatchObject({
        streamNextOffset: stream.start,
        upToDate: true,
      });
      await stream.append("new");
      expect((await reader.next()).data).toBe("new");
      reader.close();
    },
  },
  {
    section: "8",
    clause: "offset=now returns an ordinary offset to continue from",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "old" });
      const { offset } = await stream.read("now");
      await stream.append("new");
      expect((await stream.read(offset)).text).toBe("new");
    },
  },
  {
    section: "8",
    clause: "offsets sort as text in strictly increasing order, are short, and need no escaping",
    async check({ base }) {
      for (const contentType of ["text/plain", "application/json"]) {
        const stream = await Stream.create(base, { contentType });
        const offsets = [stream.start];
        for (let index = 0; index < 120; index += 1)
          offsets.push((await stream.append("1".repeat(1 + (index % 11)))).offset);
        expect(new Set(offsets).size).toBe(offsets.length);
        expect([...offsets].sort()).toEqual(offsets);
        for (const offset of offsets) {
          expect(offset).toMatch(/^[A-Za-z0-9._~-]{1,255}$/);
          expect(["-1", "now"]).not.toContain(offset);
        }
      }
    },
  },
  {
    section: "8",
    clause: "a stream begins at the first offset",
    async check({ base }) {
      expect((await Stream.create(base)).start).toBe(firstOffset);
    },
  },
  {
    section: "8",
    clause: "POST, HEAD, catch-up, long-poll and SSE return the same tail",
    async check({ base }) {
      const stream = await Stream.create(base);
      const { offset } = await stream.append("abc");
      const reader = await stream.events("-1");
      expect((await stream.head()).offset).toBe(offset);
      expect((await stream.get()).offset).toBe(offset);
      expect((await stream.longPoll("-1")).offset).toBe(offset);
      expect((await reader.upToDate()).streamNextOffset).toBe(offset);
      expect((await stream.put()).offset).toBe(offset);
      reader.close();
    },
  },
];
