import { expect } from "vitest";
import { farOffset, producer, Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectText } from "./assertions.mjs";

/** Writes of every method that would succeed without a precondition. */
const writes = [
  (stream, headers) => stream.put({ headers }),
  (stream, headers) => stream.append("x", headers),
  (stream, headers) => stream.close(headers),
  (stream, headers) => stream.delete(headers),
];

export const rows = [
  {
    section: "RFC 9110 13.1.1",
    clause: "PUT, POST and DELETE with a stale If-Match change nothing, and get 412 with the state",
    async check({ base }) {
      const stream = await Stream.create(base);
      const stale = (await stream.head()).etag;
      await stream.append("a");
      const head = await stream.head();
      for (const tag of [stale, `W/${head.etag}`, `"x"`, "x", `"x", ${stale}`]) {
        for (const write of writes) {
          const refused = await write(stream, { "If-Match": tag });
          expect(expectRefusal(refused, 412).code).toBe("precondition_failed");
          expect(refused.etag).toBe(head.etag);
          expect(refused.offset).toBe(head.offset);
        }
      }
      expect((await stream.head()).etag).toBe(head.etag);
      await expectText(stream, "a");
    },
  },
  {
    section: "RFC 9110 13.1.1",
    clause:
      "If-Match accepts the present tag of HEAD or of a page, in a list, in two headers, and *",
    async check({ base }) {
      for (const write of writes) {
        const lists = [(tag) => tag, (tag) => `"x" , ${tag}`, (tag) => ['"x"', tag], () => "*"];
        for (const list of lists) {
          for (const source of ["head", "get"]) {
            const stream = await Stream.create(base, { body: "a" });
            const { etag } = await stream[source]();
            const answer = await write(stream, { "If-Match": list(etag) });
            expect(answer.status, answer.text).toBeLessThan(300);
          }
        }
      }
    },
  },
  {
    section: "RFC 9110 13.1.1",
    clause: "a tag from before the close, or of an earlier stream of that name, is stale",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "a" });
      const open = (await stream.head()).etag;
      await stream.close({ "If-Match": open });
      expectRefusal(await stream.delete({ "If-Match": open }), 412);
      const closed = (await stream.head()).etag;
      expect((await stream.delete({ "If-Match": closed })).status).toBe(204);
      await stream.put({ body: "a" });
      for (const former of [open, closed]) {
        for (const write of writes) expectRefusal(await write(stream, { "If-Match": former }), 412);
      }
      await expectText(stream, "a");
    },
  },
  {
    section: "RFC 9110 13.1.1",
    clause: "without a stream, PUT with If-Match answers 412, and POST and DELETE answer 404",
    async check({ base }) {
      const stream = new Stream(base);
      for (const tag of ["*", '"x"']) {
        expectRefusal(await stream.put({ headers: { "If-Match": tag } }), 412);
        expectRefusal(await stream.append("a", { "If-Match": tag }), 404);
        expectRefusal(await stream.delete({ "If-Match": tag }), 404);
      }
      await expectAbsent(stream);
    },
  },
  {
    section: "RFC 9110 13.1.2",
    clause: "PUT with If-None-Match: * answers 201 once, and then 412, even with the same headers",
    async check({ base }) {
      const stream = new Stream(base);
      const headers = { "If-None-Match": "*" };
      const answers = await Promise.all(
        Array.from({ length: 8 }, () => stream.put({ headers, body: "a" })),
      );
      expect(answers.map((answer) => answer.status).sort()).toEqual([201, ...Array(7).fill(412)]);
      expectRefusal(
        await stream.put({ headers: { ...headers, "Content-Type": "text/html" } }),
        412,
      );
      for (const write of writes) expectRefusal(await write(stream, headers), 412);
      await expectText(stream, "a");
    },
  },
  {
    section: "RFC 9110 13.1.2",
    clause: "If-None-Match with the present tag, weak or strong, stops a write; other tags do not",
    async check({ base }) {
      const stream = await Stream.create(base);
      const stale = (await stream.head()).etag;
      expect((await stream.append("a", { "If-None-Match": '"x"' })).status).toBe(204);
      const { etag } = await stream.head();
      for (const tag of [etag, `W/${etag}`, `${stale}, ${etag}`]) {
        for (const write of writes)
          expectRefusal(await write(stream, { "If-None-Match": tag }), 412);
      }
      expect((await stream.append("b", { "If-None-Match": stale })).status).toBe(204);
      await expectText(stream, "ab");
    },
  },
  {
    section: "RFC 9110 13.2.2",
    clause: "on a closed stream an append answers 409 with the closure, with any precondition",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "a" });
      const open = await stream.head();
      await stream.close();
      for (const headers of [
        { "If-Match": open.etag },
        { "Stream-Expected-Offset": farOffset },
        { "Stream-Expected-Offset": open.offset },
      ]) {
        const refused = await stream.append("b", headers);
        expectRefusal(refused, 409);
        expect(refused.closed).toBe("true");
        expect(refused.offset).toBe(open.offset);
      }
    },
  },
  {
    section: "Stream-Expected-Offset",
    clause: "of many appends that expect the same tail one succeeds, and the others get the tail",
    async check({ base }) {
      const stream = await Stream.create(base);
      const headers = { "Stream-Expected-Offset": stream.start };
      const answers = await Promise.all(
        Array.from({ length: 16 }, () => stream.append("a", headers)),
      );
      const { offset } = await stream.head();
      const made = answers.filter((answer) => answer.status === 204);
      expect(made.length).toBe(1);
      for (const answer of answers) {
        expect(answer.offset).toBe(offset);
        if (answer !== made[0]) expect(expectRefusal(answer, 409).code).toBe("tail_elsewhere");
      }
      await expectText(stream, "a");
    },
  },
  {
    section: "Stream-Expected-Offset",
    clause: "it also applies to closing; -1 is the start; an invalid offset answers 400",
    async check({ base }) {
      const stream = await Stream.create(base);
      for (const text of ["", "now", "0_0", "12"]) {
        expectRefusal(await stream.append("a", { "Stream-Expected-Offset": text }), 400);
      }
      const { offset } = await stream.append("a", { "Stream-Expected-Offset": "-1" });
      expectRefusal(await stream.append("b", { "Stream-Expected-Offset": "-1" }), 409);
      const refused = await stream.close({ "Stream-Expected-Offset": stream.start });
      expectRefusal(refused, 409);
      expect(refused.closed).toBeUndefined();
      expect((await stream.close({ "Stream-Expected-Offset": offset })).status).toBe(204);
      expect((await stream.close({ "Stream-Expected-Offset": offset })).status).toBe(204);
      await expectText(stream, "a");
    },
  },
  {
    section: "Stream-Expected-Offset",
    clause:
      "a producer's retry succeeds after the tail has moved; a refusal uses no sequence number",
    async check({ base }) {
      const stream = await Stream.create(base);
      const tag = (await stream.head()).etag;
      const headers = {
        ...producer("p", 0, 0),
        "Stream-Expected-Offset": stream.start,
        "If-Match": tag,
      };
      expect((await stream.append("a", headers)).status).toBe(200);
      await stream.append("b");
      expect((await stream.append("a", headers)).status).toBe(204);
      const late = { ...producer("p", 0, 1), "Stream-Expected-Offset": stream.start };
      const refused = await stream.append("c", late);
      expectRefusal(refused, 409);
      expect(
        (await stream.append("c", { ...late, "Stream-Expected-Offset": refused.offset })).status,
      ).toBe(200);
      await expectText(stream, "abc");
    },
  },
  {
    section: "Stream-Expected-Offset",
    clause: "both it and Stream-Seq must hold, and either refusal has the tail",
    async check({ base }) {
      const stream = await Stream.create(base);
      const { offset } = await stream.append("a", { "Stream-Seq": "b" });
      for (const [seq, expected] of [
        ["b", offset],
        ["c", stream.start],
        ["a", stream.start],
        ["a", undefined],
      ]) {
        const headers = expected === undefined ? {} : { "Stream-Expected-Offset": expected };
        const refused = await stream.append("x", { "Stream-Seq": seq, ...headers });
        expectRefusal(refused, 409);
        expect(refused.offset).toBe(offset);
        expect(refused.closed).toBeUndefined();
      }
      expect(
        (await stream.append("b", { "Stream-Seq": "c", "Stream-Expected-Offset": offset })).status,
      ).toBe(204);
    },
  },
];
