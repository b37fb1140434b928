import { expect } from "vitest";
import { Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectText } from "./assertions.mjs";

const appendLimit = 16 * 1024 * 1024;

const sequences = [
  ["greater", "a", "b", 204],
  ["equal", "a", "a", 409],
  ["smaller", "b", "a", 409],
  ["a longer one with the same beginning", "a", "aa", 204],
  ["a shorter one with the same beginning", "aa", "a", 409],
  ["10 after 2, compared as text", "2", "10", 409],
  ["10 after 09, compared as text", "09", "10", 204],
  ["a small letter after a capital", "B", "a", 204],
  ["a capital after a small letter", "a", "B", 409],
  ["a byte beyond ASCII after any letter", "z", "\u00e9", 204],
];

export const rows = [
  {
    section: "5.2",
    clause: "an append answers 204 with the new tail and no body",
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.append("abc");
      expect(answer.status).toBe(204);
      expect(answer.body.length).toBe(0);
      expect(answer.closed).toBeUndefined();
      expect(answer.offset > stream.start).toBe(true);
      expect((await stream.head()).offset).toBe(answer.offset);
    },
  },
  {
    section: "5.2",
    clause: "a chunked body is appended whole",
    async check({ base }) {
      const stream = await Stream.create(base);
      const chunks = Array.from({ length: 40 }, (_, index) =>
        Buffer.alloc(1000, 97 + (index % 26)),
      );
      expect((await stream.append(chunks)).status).toBe(204);
      await expectText(stream, Buffer.concat(chunks).toString());
    },
  },
  {
    section: "5.2",
    clause: "an empty body is refused, with a length of zero and as an empty chunked body",
    async check({ base }) {
      const stream = await Stream.create(base);
      expectRefusal(await stream.append(""), 400);
      expectRefusal(await stream.append(undefined), 400);
      expectRefusal(await stream.append([]), 400);
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2",
    clause: "a body without a content type is refused",
    async check({ base }) {
      const stream = await Stream.create(base);
      expectRefusal(await stream.post("abc"), 400);
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2",
    clause: "another content type than the stream's answers 409 and appends nothing",
    async check({ base }) {
      const stream = await Stream.create(base);
      const refused = await stream.post("abc", { "Content-Type": "application/json" });
      expectRefusal(refused, 409);
      expect(refused.closed).toBeUndefined();
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2",
    clause: "content types are compared without regard to case",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "text/plain" });
      expect((await stream.post("abc", { "Content-Type": "TEXT/Plain" })).status).toBe(204);
    },
  },
  {
    section: "5.2",
    clause: "parameters of a content type do not count in the comparison",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      expect(
        (await stream.post("1", { "Content-Type": "application/json; charset=utf-8" })).status,
      ).toBe(204);
      expect(
        (await stream.post("2", { "Content-Type": 'application/json;charset="UTF-8"' })).status,
      ).toBe(204);
      expect(await stream.messages()).toEqual([1, 2]);
    },
  },
  {
    section: "5.2",
    clause: "a close without a body ignores any content type",
    async check({ base }) {
      for (const headers of [
        { "Content-Type": "application/json" },
        { "Content-Type": "nonsense" },
        { "Content-Type": "" },
        {},
      ]) {
        const stream = await Stream.create(base);
        const answer = await stream.close(headers);
        expect(answer.status).toBe(204);
        expect(answer.closed).toBe("true");
      }
    },
  },
  {
    section: "5.2",
    clause: "an append to an unknown stream answers 404 and creates nothing",
    async check({ base }) {
      const stream = new Stream(base);
      expectRefusal(await stream.append("abc"), 404);
      await expectAbsent(stream);
    },
  },
  ...sequences.map(([what, first, second, status]) => ({
    section: "5.2",
    clause: `Stream-Seq ${JSON.stringify(second)} after ${JSON.stringify(first)} (${what}) answers ${status}`,
    async check({ base }) {
      const stream = await Stream.create(base);
      expect((await stream.append("1", { "Stream-Seq": first })).status).toBe(204);
      const answer = await stream.append("2", { "Stream-Seq": second });
      if (status === 409) expectRefusal(answer, 409);
      expect(answer.status).toBe(status);
      await expectText(stream, status === 204 ? "12" : "1");
    },
  })),
  {
    section: "5.2",
    clause: "a refused Stream-Seq does not become the last one",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("1", { "Stream-Seq": "m" });
      expectRefusal(await stream.append("x", { "Stream-Seq": "a" }), 409);
      expectRefusal(await stream.append("x", { "Stream-Seq": "b" }), 409);
      expectRefusal(
        await stream.post("x", { "Content-Type": "text/html", "Stream-Seq": "z" }),
        409,
      );
      expect((await stream.append("2", { "Stream-Seq": "n" })).status).toBe(204);
      await expectText(stream, "12");
    },
  },
  {
    section: "5.2",
    clause: "the last Stream-Seq is remembered over appends that carry none",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("1", { "Stream-Seq": "5" });
      await stream.append("2");
      expectRefusal(await stream.append("x", { "Stream-Seq": "5" }), 409);
      expect((await stream.append("3", { "Stream-Seq": "6" })).status).toBe(204);
    },
  },
  {
    section: "5.2",
    clause: "Stream-Seq is scoped per stream",
    async check({ base }) {
      const [one, other] = await Promise.all([Stream.create(base), Stream.create(base)]);
      expect((await one.append("1", { "Stream-Seq": "5" })).status).toBe(204);
      expect((await other.append("1", { "Stream-Seq": "1" })).status).toBe(204);
    },
  },
  {
    section: "5.2",
    clause: "an append to a closed stream answers 409 with Stream-Closed and the final offset",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      await stream.close();
      for (const headers of [{}, { "Stream-Closed": "true" }]) {
        const refused = await stream.append("more", headers);
        expectRefusal(refused, 409);
        expect(refused.closed).toBe("true");
        expect(refused.offset).toBe(stream.start);
      }
      await expectText(stream, "abc");
    },
  },
  {
    section: "5.2",
    clause: "a closed stream is reported before a wrong content type and a sequence regression",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("1", { "Stream-Seq": "m" });
      await stream.close();
      for (const headers of [
        { "Content-Type": "application/json" },
        { "Stream-Seq": "a" },
        { "Content-Type": "application/json", "Stream-Seq": "a" },
      ]) {
        const refused = await stream.append("x", headers);
        expectRefusal(refused, 409);
        expect(refused.closed).toBe("true");
      }
    },
  },
  {
    section: "5.2",
    clause: "a wrong content type is reported before a sequence regression",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("1", { "Stream-Seq": "m" });
      const wrongType = expectRefusal(
        await stream.append("x", { "Content-Type": "application/json" }),
        409,
      ).code;
      const regression = expectRefusal(await stream.append("x", { "Stream-Seq": "a" }), 409).code;
      const both = expectRefusal(
        await stream.append("x", { "Content-Type": "application/json", "Stream-Seq": "a" }),
        409,
      ).code;
      expect(wrongType).not.toBe(regression);
      expect(both).toBe(wrongType);
    },
  },
  {
    section: "5.2",
    clause: "a body announced beyond the limit answers 413 and appends nothing",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/octet-stream" });
      expectRefusal(await stream.append(undefined, {}, { announced: appendLimit + 1 }), 413);
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2",
    clause: "a chunked body beyond the limit answers 413 and appends nothing",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/octet-stream" });
      const chunk = Buffer.alloc(1024 * 1024);
      expectRefusal(await stream.append([...Array(16).fill(chunk), Buffer.alloc(1)]), 413);
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2",
    clause: "a first content beyond the limit answers 413 and creates nothing",
    async check({ base }) {
      const stream = new Stream(base, undefined, "application/octet-stream");
      expectRefusal(await stream.put({ announced: appendLimit + 1 }), 413);
      await expectAbsent(stream);
    },
  },
  {
    section: "5.2",
    clause: "concurrent appends get different offsets, each at the end of its bytes",
    async check({ base }) {
      const stream = await Stream.create(base);
      const bodies = Array.from({ length: 32 }, (_, index) => `<${index}>`);
      const answers = await Promise.all(bodies.map((body) => stream.append(body)));
      expect(new Set(answers.map((answer) => answer.offset)).size).toBe(bodies.length);
      const inOrder = bodies
        .map((body, index) => ({ body, offset: answers[index].offset }))
        .sort((a, b) => (a.offset < b.offset ? -1 : 1));
      await expectText(stream, inOrder.map(({ body }) => body).join(""));
      for (const [index, { offset }] of inOrder.entries()) {
        const rest = inOrder
          .slice(index + 1)
          .map(({ body }) => body)
          .join("");
        expect((await stream.read(offset)).text).toBe(rest);
      }
    },
  },
  {
    section: "12.4",
    clause: "a content type that only begins like the stream's does not match",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      expectRefusal(await stream.post("1", { "Content-Type": "application/json-seq" }), 409);
      expectRefusal(await stream.post("1", { "Content-Type": "application/jso" }), 409);
    },
  },
];
