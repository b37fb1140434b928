import { expect } from "vitest";
import { farOffset, firstOffset, Stream } from "../../harness/stream.mjs";
import { expectRefusal } from "./assertions.mjs";

const malformedOffsets = [
  "abc",
  "1",
  "-2",
  "NOW",
  "Now",
  "-1_0",
  "now,",
  "%20now",
  "0000000000000000",
  "_",
  "0000000000000000_",
  "_0000000000000000",
  "0000000000000000_000000000000000g",
  "0000000000000000-0000000000000000",
  "0000000000000000_0000000000000000_0000000000000000",
  "0000000000000000_0000000000000000,1",
  "00000000000000000000000000000000_00000000000000000000000000000000",
  "..%2F..%2Fetc",
  "%00",
  "0000000000000000_%D9%A0%D9%A0",
  "a".repeat(5000),
];

const modes = [
  ["catch-up", ""],
  ["long-poll", "&live=long-poll"],
  ["SSE", "&live=sse"],
];

export const rows = [
  {
    section: "5.6",
    clause:
      "without an offset the read starts at the beginning, as with -1 and with the first offset",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const answers = await Promise.all([
        stream.get(),
        stream.read("-1"),
        stream.read(firstOffset),
      ]);
      for (const answer of answers) {
        expect(answer.status).toBe(200);
        expect(answer.text).toBe("abc");
        expect(answer.offset).toBe(stream.start);
        expect(answer.upToDate).toBe("true");
        expect(answer.closed).toBeUndefined();
      }
    },
  },
  {
    section: "5.6",
    clause: "a read from a returned offset gives exactly what came after it",
    async check({ base }) {
      const stream = await Stream.create(base);
      const parts = ["one", "zwei", "\u4e09", "four"];
      const offsets = [stream.start];
      for (const part of parts) offsets.push((await stream.append(part)).offset);
      for (const [index, offset] of offsets.entries()) {
        const answer = await stream.read(offset);
        expect(answer.text).toBe(parts.slice(index).join(""));
        expect(answer.offset).toBe(offsets.at(-1));
      }
    },
  },
  {
    section: "5.6",
    clause: "at the tail of an open stream a read is empty and up to date, with the same offset",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const answer = await stream.read(stream.start);
      expect(answer.status).toBe(200);
      expect(answer.body.length).toBe(0);
      expect(answer.offset).toBe(stream.start);
      expect(answer.upToDate).toBe("true");
      expect(answer.closed).toBeUndefined();
    },
  },
  {
    section: "5.6",
    clause: "at the tail of a closed stream a read answers 200, empty, with Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      await stream.close();
      const answer = await stream.read(stream.start);
      expect(answer.status).toBe(200);
      expect(answer.body.length).toBe(0);
      expect(answer.offset).toBe(stream.start);
      expect(answer.upToDate).toBe("true");
      expect(answer.closed).toBe("true");
    },
  },
  {
    section: "5.6",
    clause: "the read that reaches the end of a closed stream has the closure and the data",
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "abc",
        headers: { "Stream-Closed": "true" },
      });
      const answer = await stream.get();
      expect(answer.text).toBe("abc");
      expect(answer.upToDate).toBe("true");
      expect(answer.closed).toBe("true");
    },
  },
  {
    section: "5.6",
    clause: "a long stream comes whole in one answer, up to date and closed",
    async check({ base, own }) {
      const stream = await Stream.create(base, { contentType: "application/octet-stream" });
      const parts = Array.from({ length: 12 }, (_, index) => Buffer.alloc(30_000, index));
      for (const part of parts) await stream.append(part);
      await stream.close();
      const pages = await stream.pages();
      if (own) expect(pages.length).toBe(1);
      expect(Buffer.concat(pages.map((page) => page.body)).equals(Buffer.concat(parts))).toBe(true);
      for (const page of pages.slice(0, -1)) {
        expect(page.upToDate).toBeUndefined();
        expect(page.closed).toBeUndefined();
        expect(page.body.length).toBeGreaterThan(0);
      }
      expect(pages.at(-1).closed).toBe("true");
      const offsets = pages.map((page) => page.offset);
      expect(offsets).toEqual([...new Set(offsets)].sort());
    },
  },
  {
    section: "5.6",
    clause: "a long JSON stream comes as one array that holds every message once, in order",
    async check({ base, own }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const messages = Array.from({ length: 300 }, (_, index) => ({
        index,
        filling: "x".repeat(1000),
      }));
      for (let start = 0; start < messages.length; start += 100)
        await stream.append(JSON.stringify(messages.slice(start, start + 100)));
      const pages = await stream.pages();
      if (own) expect(pages.length).toBe(1);
      expect(pages.flatMap((page) => page.json())).toEqual(messages);
    },
  },
  {
    section: "5.6",
    clause: "a read of an unknown stream answers 404",
    async check({ base }) {
      expectRefusal(await new Stream(base).get(), 404);
      expectRefusal(await new Stream(base).read(firstOffset), 404);
    },
  },
  {
    section: "5.6",
    clause: "unknown query parameters are ignored",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const answer = await stream.get("?unknown=1&offset=-1&another");
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("abc");
    },
  },
  ...modes.flatMap(([mode, suffix]) => [
    ...malformedOffsets.map((offset) => ({
      section: "5.6",
      clause: `the malformed offset ${offset.length > 60 ? `of ${offset.length} characters` : offset} is refused (${mode})`,
      async check({ base }) {
        const stream = await Stream.create(base, { body: "abc" });
        expectRefusal(await stream.get(`?offset=${offset}${suffix}`), 400);
      },
    })),
    {
      section: "5.6",
      clause: `an empty offset is refused (${mode})`,
      async check({ base }) {
        const stream = await Stream.create(base, { body: "abc" });
        expectRefusal(await stream.get(`?offset=${suffix}`), 400);
        expectRefusal(await stream.get(`?offset${suffix}`), 400);
      },
    },
    {
      section: "5.6",
      clause: `a repeated offset is refused (${mode})`,
      async check({ base }) {
        const stream = await Stream.create(base, { body: "abc" });
        expectRefusal(await stream.get(`?offset=-1&offset=-1${suffix}`), 400);
        expectRefusal(await stream.get(`?offset=-1${suffix}&offset=${stream.start}`), 400);
      },
    },
  ]),
  ...["true", "SSE", "long_poll", "longpoll", "1", "websocket"].map((mode) => ({
    section: "5.6",
    clause: `live=${mode} is refused`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      expectRefusal(await stream.get(`?offset=-1&live=${mode}`), 400);
    },
  })),
  {
    section: "5.6",
    clause:
      "an offset beyond the tail answers 200, empty and up to date, and leads back to the tail",
    async check({ base }) {
      for (const contentType of ["text/plain", "application/json"]) {
        const stream = await Stream.create(base, { contentType, body: "123" });
        const answer = await stream.read(farOffset);
        expect(answer.status).toBe(200);
        expect(answer.text).toBe(contentType === "application/json" ? "[]" : "");
        expect(answer.offset).toBe(stream.start);
        expect(answer.upToDate).toBe("true");
      }
    },
  },
  {
    section: "4",
    clause: "bytes at an offset never change while the stream grows",
    async check({ base }) {
      const stream = await Stream.create(base);
      const first = await stream.append("first");
      for (let index = 0; index < 20; index += 1) await stream.append(`-${index}`);
      const whole = (await stream.get()).text;
      expect(whole.startsWith("first-0-1-2")).toBe(true);
      expect((await stream.read(first.offset)).text).toBe(whole.slice("first".length));
    },
  },
  {
    section: "4",
    clause: "all bytes are returned as they were written",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/octet-stream" });
      const bytes = Buffer.from(Array.from({ length: 1024 }, (_, index) => index % 256));
      await stream.append(bytes);
      expect((await stream.bytes()).equals(bytes)).toBe(true);
    },
  },
];
