import { expect } from "vitest";
import { eventually, sleep } from "../../harness/http.mjs";
import { farOffset, firstOffset, Stream } from "../../harness/stream.mjs";
import { expectRefusal } from "./assertions.mjs";
import { currentInterval } from "./cursor.mjs";

const base64Types = [
  "application/octet-stream",
  "application/x-protobuf",
  "application/ndjson",
  "application/vnd.api+json",
  "application/jsonp",
  "image/png",
  "textual/plain",
  "multipart/mixed",
];
const textTypes = [
  "text/plain",
  "text/html; charset=utf-8",
  "TEXT/PLAIN",
  "text/event-stream",
  "text/x-made-up",
];
const jsonTypes = ["application/json", "application/json; charset=utf-8", "Application/JSON"];

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, index) => index));

// Appends to a text stream, and what a reader must get by the rules of the HTML standard.
const texts = [
  ["a word", "word", "word"],
  ["a leading space", " world", " world"],
  ["two leading spaces", "  x", "  x"],
  ["only a space", " ", " "],
  ["a leading tab", "\tx", "\tx"],
  ["LF", "a\nb", "a\nb"],
  ["CRLF", "a\r\nb", "a\nb"],
  ["CR", "a\rb", "a\nb"],
  ["all three ends of line", "a\r\nb\rc\nd", "a\nb\nc\nd"],
  ["an LF after a CRLF", "a\r\n\nb", "a\n\nb"],
  ["a trailing LF", "a\n", "a\n"],
  ["a leading LF", "\na", "\na"],
  ["only an LF", "\n", "\n"],
  ["spaces at the beginning of later lines", "a\n b\n  c", "a\n b\n  c"],
  ["a space before the end of line", " \n ", " \n "],
  ["colons", ":a\n: b\nc:d", ":a\n: b\nc:d"],
  [
    "an event forged by LF",
    'x\n\nevent: control\ndata: {"streamClosed":true}\n\n',
    'x\n\nevent: control\ndata: {"streamClosed":true}\n\n',
  ],
  [
    "an event forged by CR",
    "x\r\revent: control\rdata: {}\r\r",
    "x\n\nevent: control\ndata: {}\n\n",
  ],
  [
    "an event forged by CRLF",
    "x\r\n\r\nevent: control\r\ndata: {}\r\n\r\n",
    "x\n\nevent: control\ndata: {}\n\n",
  ],
  [
    "other separators of Unicode, which end no line",
    "a\u2028b\u2029c\u0085d\u000be\u000cf",
    "a\u2028b\u2029c\u0085d\u000be\u000cf",
  ],
  ["many bytes for a character", "\u00e9\u4e09\ud83d\ude00", "\u00e9\u4e09\ud83d\ude00"],
  ["a byte order mark", "\ufeffa", "\ufeffa"],
  ["a NUL", "a\u0000b", "a\u0000b"],
];

function expectPairs(reader) {
  const types = reader.events.map((event) => event.type);
  for (const [index, type] of types.entries()) {
    if (type === "data") expect(types[index + 1], types.join(" ")).toBe("control");
  }
}

export const rows = [
  {
    section: "5.8",
    clause: "an offset is required",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      expectRefusal(await stream.get("?live=sse"), 400);
    },
  },
  {
    section: "5.8",
    clause: "an unknown stream answers 404",
    async check({ base }) {
      expectRefusal(await new Stream(base).events("-1"), 404);
      expectRefusal(await new Stream(base).events("now"), 404);
    },
  },
  {
    section: "5.8",
    clause: "the answer is an event stream that caches and proxies must not store or change",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const reader = await stream.events("-1");
      expect(reader.status).toBe(200);
      expect(reader.headers["content-type"]).toMatch(/^text\/event-stream\b/);
      expect(reader.headers["cache-control"]).toMatch(/\bno-cache\b|\bno-store\b/);
      expect(reader.headers["content-length"]).toBeUndefined();
      expect(reader.headers["content-encoding"]).toSatisfy(
        (value) => value === undefined || value === "identity",
      );
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "a small stream is one data event and one control event, without comments",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const reader = await stream.events("-1");
      await reader.upToDate();
      await sleep(300);
      expect(reader.events.map((event) => event.type)).toEqual(["data", "control"]);
      expect(reader.events[0].data).toBe("abc");
      expect(reader.events[1].control).toMatchObject({
        streamNextOffset: stream.start,
        upToDate: true,
      });
      expect(reader.events[1].control.streamCursor).toMatch(/^\d+$/);
      expect(reader.events[1].control).not.toHaveProperty("streamClosed");
      expect(reader.comments).toEqual([]);
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "an empty stream begins with one control event at the tail",
    async check({ base }) {
      const stream = await Stream.create(base);
      const reader = await stream.events("-1");
      const first = await reader.next();
      expect(first.type).toBe("control");
      expect(first.control).toMatchObject({ streamNextOffset: stream.start, upToDate: true });
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "each append sends its data event and a control event with the next offset",
    async check({ base }) {
      const stream = await Stream.create(base);
      const reader = await stream.events("-1");
      await reader.upToDate();
      for (const body of ["a", "b", "c"]) {
        const appended = await stream.append(body);
        const data = await reader.next({ type: "data" });
        expect(data.data).toBe(body);
        const { control } = await reader.next();
        expect(control).toMatchObject({ streamNextOffset: appended.offset, upToDate: true });
        expect(control.streamCursor).toMatch(/^\d+$/);
      }
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "a long stream arrives in order, with a control event after each data event",
    async check({ base, own }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const messages = Array.from({ length: 300 }, (_, index) => ({
        index,
        filling: "x".repeat(1000),
      }));
      for (let start = 0; start < messages.length; start += 100)
        await stream.append(JSON.stringify(messages.slice(start, start + 100)));
      const tail = (await stream.head()).offset;
      const reader = await stream.events("-1");
      await reader.upToDate();
      expectPairs(reader);
      expect(reader.messages).toEqual(messages);
      if (own) expect(reader.controls.length).toBeGreaterThan(2);
      for (const control of reader.controls)
        expect(control.upToDate === true).toBe(control.streamNextOffset === tail);
      const offsets = reader.controls.map((control) => control.streamNextOffset);
      expect(offsets).toEqual([...new Set(offsets)].sort());
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "a reader can resume from any control event without loss or repetition",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      for (let index = 0; index < 150; index += 50) {
        await stream.append(
          JSON.stringify(
            Array.from({ length: 50 }, (_, position) => ({
              index: index + position,
              filling: "x".repeat(1000),
            })),
          ),
        );
      }
      const whole = await stream.events("-1");
      await whole.upToDate();
      let seen = 0;
      for (const event of whole.events) {
        if (event.type === "data") {
          seen += JSON.parse(event.data).length;
          continue;
        }
        const rest = await stream.events(event.control.streamNextOffset);
        await rest.upToDate();
        expect(rest.messages.map((message) => message.index)).toEqual(
          Array.from({ length: 150 - seen }, (_, index) => seen + index),
        );
        rest.close();
      }
      whole.close();
    },
  },
  ...texts.map(([what, written, read]) => ({
    section: "5.8",
    clause: `text with ${what} arrives whole, from the log and live`,
    async check({ base }) {
      const stream = await Stream.create(base);
      const live = await stream.events("-1");
      await live.upToDate();
      await stream.append(written);
      expect((await live.next({ type: "data" })).data).toBe(read);
      expect((await live.next()).type).toBe("control");
      live.close();
      const caughtUp = await stream.events("-1");
      await caughtUp.upToDate();
      expect(caughtUp.text).toBe(read);
      expect(caughtUp.controls).toHaveLength(1);
      caughtUp.close();
    },
  })),
  {
    section: "5.8",
    clause: "a line of data follows the colon directly, unless it begins with a space",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "line1\n line2\nline3" });
      const reader = await stream.events("-1");
      await reader.upToDate();
      expect(reader.wire.replaceAll("\r\n", "\n")).toMatch(
        /^id: \d+_\d+\nevent: ?data\ndata:line1\ndata: {2}line2\ndata:line3\n\n/,
      );
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "tokens keep the spaces between them",
    async check({ base }) {
      const stream = await Stream.create(base);
      const live = await stream.events("-1");
      await live.upToDate();
      const tokens = ["Hello", " world", ",", " how", " are", " you", "?", " ", "\n", " Fine."];
      for (const token of tokens) await stream.append(token);
      await live.control(({ streamNextOffset }) => streamNextOffset > stream.start);
      const tail = (await stream.head()).offset;
      await live.control(({ streamNextOffset }) => streamNextOffset === tail);
      expect(live.text).toBe(tokens.join(""));
      live.close();
    },
  },
  ...textTypes.map((contentType) => ({
    section: "5.8",
    clause: `${contentType} is sent as text`,
    async check({ base }) {
      const stream = await Stream.create(base, { contentType, body: "caf\u00e9" });
      const reader = await stream.events("-1");
      expect(reader.headers["stream-sse-data-encoding"]).toBeUndefined();
      await reader.upToDate();
      expect(reader.text).toBe("caf\u00e9");
      reader.close();
    },
  })),
  ...jsonTypes.map((contentType) => ({
    section: "5.8",
    clause: `${contentType} is sent as JSON arrays`,
    async check({ base }) {
      const stream = await Stream.create(base, { contentType, body: '[1,\n{\n  "a": "x y"\n}]' });
      const reader = await stream.events("-1");
      expect(reader.headers["stream-sse-data-encoding"]).toBeUndefined();
      await reader.upToDate();
      await stream.append("[[2,3]]");
      await reader.control(({ streamNextOffset }) => streamNextOffset > stream.start);
      expect(reader.chunks.every((chunk) => Array.isArray(JSON.parse(chunk)))).toBe(true);
      expect(reader.messages).toEqual([1, { a: "x y" }, [2, 3]]);
      reader.close();
    },
  })),
  ...base64Types.map((contentType) => ({
    section: "5.8",
    clause: `${contentType} is sent in base64, and the header says so`,
    async check({ base }) {
      const stream = await Stream.create(base, { contentType, body: everyByte });
      const reader = await stream.events("-1");
      expect(reader.headers["stream-sse-data-encoding"]).toBe("base64");
      await reader.upToDate();
      await stream.append("x");
      await stream.append("yz");
      const tail = (await stream.head()).offset;
      await reader.control(({ streamNextOffset }) => streamNextOffset === tail);
      for (const chunk of reader.chunks) {
        const joined = chunk.replace(/[\r\n]/g, "");
        expect(joined).toMatch(/^[A-Za-z0-9+/]*={0,2}$/);
        expect(joined.length % 4).toBe(0);
      }
      expect(reader.bytes.equals(Buffer.concat([everyByte, Buffer.from("xyz")]))).toBe(true);
      reader.close();
    },
  })),
  ...[
    ["text/plain", "abc"],
    ["application/json", "[1,2]"],
    ["application/octet-stream", "abc"],
  ].flatMap(([contentType, body]) => [
    {
      section: "5.8",
      clause: `a closed stream of ${contentType} ends with streamClosed and upToDate`,
      async check({ base }) {
        const stream = await Stream.create(base, {
          contentType,
          body,
          headers: { "Stream-Closed": "true" },
        });
        const reader = await stream.events("-1");
        await reader.end();
        expect(reader.events.map((event) => event.type)).toEqual(["data", "control"]);
        expect(reader.controls[0]).toEqual({
          streamNextOffset: stream.start,
          streamClosed: true,
          upToDate: true,
        });
      },
    },
    {
      section: "5.8",
      clause: `a read at the end of a closed ${contentType} stream is one control event`,
      async check({ base }) {
        const stream = await Stream.create(base, {
          contentType,
          body,
          headers: { "Stream-Closed": "true" },
        });
        const reader = await stream.events(stream.start);
        await reader.end();
        expect(reader.events.map((event) => event.type)).toEqual(["control"]);
        expect(reader.controls[0]).toEqual({
          streamNextOffset: stream.start,
          streamClosed: true,
          upToDate: true,
        });
      },
    },
    {
      section: "5.8",
      clause: `a close ends a live read of ${contentType}`,
      async check({ base }) {
        const stream = await Stream.create(base, { contentType, body });
        const reader = await stream.events(stream.start);
        await reader.upToDate();
        await stream.close();
        await reader.end({ timeoutMs: 3_000 });
        expect(reader.chunks).toEqual([]);
        expect(reader.controls.at(-1)).toEqual({
          streamNextOffset: stream.start,
          streamClosed: true,
          upToDate: true,
        });
      },
    },
    {
      section: "5.8",
      clause: `a final append reaches a live read of ${contentType} before the end`,
      async check({ base }) {
        const stream = await Stream.create(base, { contentType });
        const reader = await stream.events("-1");
        await reader.upToDate();
        const final = await stream.append(body, { "Stream-Closed": "true" });
        await reader.end({ timeoutMs: 3_000 });
        expect(reader.events.slice(-2).map((event) => event.type)).toEqual(["data", "control"]);
        if (contentType === "application/octet-stream") expect(reader.bytes.toString()).toBe(body);
        else expect(reader.text).toBe(body);
        expect(reader.controls.at(-1)).toEqual({
          streamNextOffset: final.offset,
          streamClosed: true,
          upToDate: true,
        });
      },
    },
  ]),
  {
    section: "5.8",
    clause: "a page in the middle of a closed stream does not say that it is closed",
    async check({ base }) {
      const stream = await Stream.create(base);
      for (let index = 0; index < 5; index += 1) await stream.append("x".repeat(50_000));
      await stream.close();
      const reader = await stream.events("-1");
      await reader.end();
      expect(reader.text.length).toBe(250_000);
      for (const control of reader.controls.slice(0, -1))
        expect(control).not.toHaveProperty("streamClosed");
      expect(reader.controls.at(-1).streamClosed).toBe(true);
    },
  },
  {
    section: "5.8",
    clause: "a read from beyond the tail begins at the tail",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const reader = await stream.events(farOffset);
      expect((await reader.next()).control).toMatchObject({
        streamNextOffset: stream.start,
        upToDate: true,
      });
      await stream.append("def");
      expect((await reader.next()).data).toBe("def");
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "many readers of one stream all get every append in order",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const readers = await Promise.all(Array.from({ length: 10 }, () => stream.events("-1")));
      await Promise.all(readers.map((reader) => reader.upToDate()));
      for (let index = 0; index < 20; index += 1) await stream.append(String(index));
      const tail = (await stream.head()).offset;
      for (const reader of readers) {
        await reader.control(({ streamNextOffset }) => streamNextOffset === tail);
        expect(reader.messages).toEqual(Array.from({ length: 20 }, (_, index) => index));
        expectPairs(reader);
        reader.close();
      }
    },
  },
  {
    section: "10.1",
    clause: "a control event's cursor is the current interval, or greater than the client's",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const before = currentInterval();
      for (const cursor of [undefined, "0", String(before), String(before + 500n)]) {
        const reader = await stream.events("-1", { cursor });
        const returned = BigInt((await reader.upToDate()).streamCursor);
        if (cursor === undefined || BigInt(cursor) < before)
          expect(returned >= before && returned <= currentInterval()).toBe(true);
        else expect(returned > BigInt(cursor)).toBe(true);
        const { offset } = await stream.append("more");
        await reader.control(({ streamNextOffset }) => streamNextOffset === offset);
        const cursors = reader.controls.map((control) => BigInt(control.streamCursor));
        expect(cursors).toEqual([...cursors].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)));
        reader.close();
      }
    },
  },
  {
    section: "10.2",
    clause: "the server ends an SSE read at its age, and the reader resumes without loss",
    only: "own",
    concurrent: true,
    async check({ base, sseAgeMs }) {
      const stream = await Stream.create(base, { body: "abc" });
      const begun = performance.now();
      const reader = await stream.events("-1");
      await reader.end({ timeoutMs: sseAgeMs * 2 });
      expect(performance.now() - begun).toBeGreaterThan(sseAgeMs * 0.7);
      const last = reader.controls.at(-1);
      expect(last).not.toHaveProperty("streamClosed");
      await stream.append("def");
      const next = await stream.events(last.streamNextOffset);
      expect((await next.next({ type: "data" })).data).toBe("def");
      next.close();
    },
  },
  {
    section: "5.8",
    clause: "comments, which are not events, keep an idle read alive",
    only: "own",
    concurrent: true,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const reader = await stream.events("-1");
      await reader.upToDate();
      const events = reader.events.length;
      await eventually("a comment", () => reader.comments.length > 0);
      expect(reader.events.slice(events).every((event) => event.type === "control")).toBe(true);
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "every event has the next offset as its id, so that EventSource can resume from it",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const reader = await stream.events("-1");
      await reader.upToDate();
      const { offset } = await stream.append("def");
      await reader.control(({ streamNextOffset }) => streamNextOffset === offset);
      await stream.close();
      await reader.control(({ streamClosed }) => streamClosed);
      for (const [index, event] of reader.events.entries()) {
        const control = reader.events.slice(index).find(({ type }) => type === "control");
        expect(event.lastEventId).toBe(control.control.streamNextOffset);
      }
      expect(reader.wire).toMatch(/^id: [^\n]+\nevent: control\n/m);
      expect(reader.headers["x-accel-buffering"]).toBe("no");
      reader.close();
    },
  },
  {
    section: "5.8",
    clause: "Last-Event-ID overrides the offset, after each end of a response",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const id = (await stream.head()).offset;
      await stream.append("def");
      for (const offset of ["-1", "now", id]) {
        const reader = await stream.events(offset, { headers: { "Last-Event-ID": id } });
        expect((await reader.next({ type: "data" })).data).toBe("def");
        await reader.upToDate();
        reader.close();
      }
    },
  },
  {
    section: "5.8",
    clause: "a Last-Event-ID that this stream never sent is ignored, as is one on other reads",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const { offset } = await stream.head();
      for (const id of [
        "",
        "x",
        "-1",
        "now",
        "7",
        farOffset,
        offset.replace(/^0{16}/, "0000000000000009"),
      ]) {
        const reader = await stream.events("-1", { headers: { "Last-Event-ID": id } });
        expect((await reader.next({ type: "data" })).data, id).toBe("abc");
        reader.close();
      }
      expect((await stream.read("-1", { "Last-Event-ID": offset })).text).toBe("abc");
      expect((await stream.longPoll("-1", { headers: { "Last-Event-ID": offset } })).text).toBe(
        "abc",
      );
    },
  },
  {
    section: "5.8",
    clause:
      "204 stops a client that reconnects at the end of a closed stream; others get the closure",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      await stream.close();
      const { offset } = await stream.head();
      for (const from of ["-1", "now", offset]) {
        const answer = await stream.events(from, { headers: { "Last-Event-ID": offset } });
        expect(answer.status).toBe(204);
        expect([answer.offset, answer.closed, answer.upToDate]).toEqual([offset, "true", "true"]);
        expect(answer.headers["cache-control"]).toMatch(/no-store/);
      }
      for (const [from, id] of [
        ["-1", firstOffset],
        [offset, "x"],
        ["now", farOffset],
      ]) {
        const reader = await stream.events(from, { headers: { "Last-Event-ID": id } });
        expect(reader.status).toBe(200);
        await reader.control(({ streamClosed }) => streamClosed);
        await reader.end();
      }
    },
  },
];
