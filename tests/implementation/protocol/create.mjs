import { expect } from "vitest";
import { Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectText } from "./assertions.mjs";

const future = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();

const configurations = [
  ["the content type differs", {}, { "Content-Type": "text/html" }],
  ["the TTL differs", { "Stream-TTL": "3600" }, { "Stream-TTL": "7200" }],
  ["only the existing stream has a TTL", { "Stream-TTL": "3600" }, {}],
  ["only the request has a TTL", {}, { "Stream-TTL": "3600" }],
  [
    "the expiry differs",
    { "Stream-Expires-At": "2099-01-01T00:00:00Z" },
    { "Stream-Expires-At": "2099-01-02T00:00:00Z" },
  ],
  ["only the existing stream has an expiry", { "Stream-Expires-At": "2099-01-01T00:00:00Z" }, {}],
  ["only the request has an expiry", {}, { "Stream-Expires-At": "2099-01-01T00:00:00Z" }],
  [
    "one has a TTL and the other an expiry",
    { "Stream-TTL": "3600" },
    { "Stream-Expires-At": "2099-01-01T00:00:00Z" },
  ],
  ["only the existing stream is closed", { "Stream-Closed": "true" }, {}],
  ["only the request asks for a closed stream", {}, { "Stream-Closed": "true" }],
];

const agreements = [
  ["nothing was configured", {}, {}],
  [
    "the content type is written in another case",
    { "Content-Type": "Text/Plain" },
    { "Content-Type": "tEXT/pLAIN" },
  ],
  ["the TTL is the same", { "Stream-TTL": "3600" }, { "Stream-TTL": "3600" }],
  [
    "the expiry is the same",
    { "Stream-Expires-At": "2099-01-01T00:00:00Z" },
    { "Stream-Expires-At": "2099-01-01T00:00:00Z" },
  ],
  ["both are closed", { "Stream-Closed": "true" }, { "Stream-Closed": "true" }],
];

const badTtls = [
  "+3600",
  "03600",
  "3600.0",
  "3.6e3",
  "-1",
  "-0",
  "00",
  "abc",
  "",
  "0x10",
  "1 2",
  "3600s",
  "1,2",
  "Infinity",
  "NaN",
  "1_000",
];
const badExpiries = [
  "tomorrow",
  "",
  "4102444800",
  "2099-01-01",
  "2099-01-01T00:00:00",
  "2099-13-01T00:00:00Z",
  "2099-02-30T00:00:00Z",
  "2099-01-01T25:00:00Z",
  "2099-01-01T00:61:00Z",
  "2099-01-01T00:00:00+25:00",
  "2099-1-1T0:0:0Z",
  "99-01-01T00:00:00Z",
  "Thu, 01 Jan 2099 00:00:00 GMT",
];
const goodExpiries = [
  "2099-01-01T00:00:00Z",
  "2099-01-01T00:00:00.5Z",
  "2099-01-01T00:00:00.123456789Z",
  "2099-01-01T00:00:00+02:00",
  "2099-01-01T00:00:00-23:59",
  "2096-02-29T23:59:59Z",
  "2099-01-01t00:00:00z",
];

export const rows = [
  {
    section: "5.1",
    clause: "a new stream answers 201 with its URL, content type and tail, and no body",
    async check({ base }) {
      const stream = new Stream(base);
      const answer = await stream.put();
      expect(answer.status).toBe(201);
      expect(answer.headers.location).toBe(stream.url);
      expect(answer.headers["content-type"]).toBe("text/plain");
      expect(answer.offset).toBe((await stream.head()).offset);
      expect(answer.closed).toBeUndefined();
      expect(answer.body.length).toBe(0);
    },
  },
  {
    section: "5.1",
    clause: "without a content type a stream is application/octet-stream",
    async check({ base }) {
      const stream = new Stream(base);
      const answer = await stream.request("PUT");
      expect(answer.status).toBe(201);
      expect(answer.headers["content-type"]).toBe("application/octet-stream");
      expect((await stream.head()).headers["content-type"]).toBe("application/octet-stream");
    },
  },
  {
    section: "5.1",
    clause: "the content type is returned exactly as it was set",
    async check({ base }) {
      const contentType = 'Text/Markdown; Charset="UTF-8"; variant=GFM';
      const stream = await Stream.create(base, { contentType, body: "x" });
      expect((await stream.get()).headers["content-type"]).toBe(contentType);
      expect((await stream.head()).headers["content-type"]).toBe(contentType);
    },
  },
  {
    section: "5.1",
    clause: "a body becomes the first content of the stream",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "first" });
      await stream.append(" second");
      await expectText(stream, "first second");
      expect((await stream.read(stream.start)).text).toBe(" second");
    },
  },
  {
    section: "5.1",
    clause: "a chunked body becomes the first content of the stream",
    async check({ base }) {
      const stream = await Stream.create(base, { body: ["one,", "two,", "three"] });
      await expectText(stream, "one,two,three");
    },
  },
  {
    section: "5.1",
    clause: "created closed and empty, a stream is at its end at once",
    async check({ base }) {
      const stream = new Stream(base);
      const answer = await stream.put({ headers: { "Stream-Closed": "true" } });
      expect(answer.status).toBe(201);
      expect(answer.closed).toBe("true");
      const read = await stream.get();
      expect(read.status).toBe(200);
      expect(read.body.length).toBe(0);
      expect(read.closed).toBe("true");
    },
  },
  {
    section: "5.1",
    clause: "created closed with a body, a stream holds that body and nothing can follow",
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "whole",
        headers: { "Stream-Closed": "true" },
      });
      const read = await stream.get();
      expect(read.text).toBe("whole");
      expect(read.closed).toBe("true");
      const refused = await stream.append("more");
      expectRefusal(refused, 409);
      expect(refused.closed).toBe("true");
    },
  },
  ...agreements.map(([what, first, second]) => ({
    section: "5.1",
    clause: `a repeated PUT answers 200 with the tail when ${what}`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "content", headers: first });
      const answer = await stream.put({ headers: second });
      expect(answer.status, answer.text).toBe(200);
      expect(answer.offset).toBe(stream.start);
      expect(answer.headers["content-type"].toLowerCase()).toBe("text/plain");
      expect(answer.closed).toBe(first["Stream-Closed"]);
    },
  })),
  ...configurations.map(([what, first, second]) => ({
    section: "5.1",
    clause: `a repeated PUT answers 409 when ${what}`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "content", headers: first });
      expectRefusal(await stream.put({ headers: second }), 409);
      const head = await stream.head();
      expect(head.offset).toBe(stream.start);
      expect(head.closed).toBe(first["Stream-Closed"]);
      expect(head.headers["stream-ttl"]).toBe(first["Stream-TTL"]);
    },
  })),
  {
    section: "5.1",
    clause: "closing later counts for the comparison of a repeated PUT",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.close();
      expectRefusal(await stream.put(), 409);
      expect((await stream.put({ headers: { "Stream-Closed": "true" } })).status).toBe(200);
    },
  },
  {
    section: "5.1",
    clause: "the body of a repeated PUT is not appended again",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "once" });
      const answer = await stream.put({ body: "once" });
      expect(answer.status).toBe(200);
      expect(answer.offset).toBe(stream.start);
      await expectText(stream, "once");
    },
  },
  {
    section: "5.1",
    clause: "of many PUTs at once exactly one creates the stream",
    async check({ base }) {
      const stream = new Stream(base);
      const answers = await Promise.all(
        Array.from({ length: 16 }, () => stream.put({ body: "once" })),
      );
      expect(answers.filter((answer) => answer.status === 201)).toHaveLength(1);
      expect(answers.filter((answer) => answer.status === 200)).toHaveLength(15);
      await expectText(stream, "once");
    },
  },
  {
    section: "5.1",
    clause: "once a PUT has answered, every append finds the stream",
    async check({ base }) {
      const streams = await Promise.all(Array.from({ length: 16 }, () => Stream.create(base)));
      const answers = await Promise.all(streams.map((stream) => stream.append("a")));
      expect(answers.map((answer) => answer.status)).toEqual(Array(16).fill(204));
    },
  },
  ...badTtls.map((value) => ({
    section: "5.1",
    clause: `Stream-TTL: ${JSON.stringify(value)} is refused and creates nothing`,
    async check({ base }) {
      const stream = new Stream(base);
      expectRefusal(await stream.put({ headers: { "Stream-TTL": value } }), 400);
      await expectAbsent(stream);
    },
  })),
  {
    section: "5.1",
    clause: "a TTL longer than any clock is kept or refused, and never an internal error",
    async check({ base }) {
      const stream = new Stream(base);
      const answer = await stream.put({ headers: { "Stream-TTL": "99999999999999999999" } });
      expect([201, 400]).toContain(answer.status);
      expect((await stream.get()).status).toBe(answer.status === 201 ? 200 : 404);
    },
  },
  ...badExpiries.map((value) => ({
    section: "5.1",
    clause: `Stream-Expires-At: ${JSON.stringify(value)} is refused and creates nothing`,
    async check({ base }) {
      const stream = new Stream(base);
      expectRefusal(await stream.put({ headers: { "Stream-Expires-At": value } }), 400);
      await expectAbsent(stream);
    },
  })),
  ...goodExpiries.map((value) => ({
    section: "5.1",
    clause: `Stream-Expires-At: ${value} is accepted, and HEAD returns the same time`,
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-Expires-At": value } });
      const returned = (await stream.head()).headers["stream-expires-at"];
      expect(Date.parse(returned)).toBe(Date.parse(value));
    },
  })),
  {
    section: "5.1",
    clause: "a TTL and an expiry together are refused and create nothing",
    async check({ base }) {
      const stream = new Stream(base);
      expectRefusal(
        await stream.put({ headers: { "Stream-TTL": "3600", "Stream-Expires-At": future(3600) } }),
        400,
      );
      await expectAbsent(stream);
    },
  },
  {
    section: "5.1",
    clause: "a PUT with a body that the stream could not take creates nothing",
    async check({ base }) {
      for (const body of ["{", "[1,]", "{}{}", '"\n"']) {
        const stream = new Stream(base, undefined, "application/json");
        expectRefusal(await stream.put({ body }), 400);
        await expectAbsent(stream);
      }
    },
  },
  {
    section: "5.1",
    clause: "a PUT with bad producer headers that is refused creates nothing",
    async check({ base }) {
      for (const headers of [
        { "Producer-Id": "p" },
        { "Producer-Id": "", "Producer-Epoch": "0", "Producer-Seq": "0" },
        { "Producer-Id": "p", "Producer-Epoch": "x", "Producer-Seq": "0" },
      ]) {
        const stream = new Stream(base);
        const answer = await stream.put({ body: "a", headers });
        expect([201, 400]).toContain(answer.status);
        expect((await stream.get()).status).toBe(answer.status === 201 ? 200 : 404);
      }
    },
  },
];
