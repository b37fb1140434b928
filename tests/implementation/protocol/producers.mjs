import { expect } from "vitest";
import { producer, Stream } from "../../harness/stream.mjs";
import { expectRefusal, expectRefusalIn, expectText } from "./assertions.mjs";

const greatest = "9007199254740991";
const header = { id: "Producer-Id", epoch: "Producer-Epoch", seq: "Producer-Seq" };

const incomplete = [["id"], ["epoch"], ["seq"], ["id", "epoch"], ["id", "seq"], ["epoch", "seq"]];
const notIntegers = [
  "abc",
  "-1",
  "1.5",
  "1e3",
  "+1",
  "",
  "0x1",
  "1 2",
  "9007199254740992",
  "99999999999999999999999999",
];

function expectEcho(answer, epoch, seq) {
  expect(answer.headers["producer-epoch"]).toBe(String(epoch));
  expect(answer.headers["producer-seq"]).toBe(String(seq));
}

export const rows = [
  ...incomplete.map((names) => ({
    section: "5.2.1",
    clause: `only ${names.map((name) => header[name]).join(" and ")} of the three producer headers is refused`,
    async check({ base }) {
      const stream = await Stream.create(base);
      const headers = Object.fromEntries(
        names.map((name) => [header[name], name === "id" ? "p" : "0"]),
      );
      expectRefusal(await stream.append("a", headers), 400);
      expectRefusal(await stream.close(headers), 400);
      const head = await stream.head();
      expect(head.offset).toBe(stream.start);
      expect(head.closed).toBeUndefined();
    },
  })),
  {
    section: "5.2.1",
    clause: "an empty Producer-Id is refused",
    async check({ base }) {
      const stream = await Stream.create(base);
      expectRefusal(await stream.append("a", producer("", 0, 0)), 400);
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  ...notIntegers.flatMap((value) => [
    {
      section: "5.2.1",
      clause: `Producer-Epoch: ${JSON.stringify(value)} is refused`,
      async check({ base }) {
        const stream = await Stream.create(base);
        expectRefusal(await stream.append("a", producer("p", value, 0)), 400);
        expect((await stream.head()).offset).toBe(stream.start);
      },
    },
    {
      section: "5.2.1",
      clause: `Producer-Seq: ${JSON.stringify(value)} is refused`,
      async check({ base }) {
        const stream = await Stream.create(base);
        expectRefusal(await stream.append("a", producer("p", 0, value)), 400);
        expect((await stream.head()).offset).toBe(stream.start);
      },
    },
  ]),
  {
    section: "5.2.1",
    clause: "2^53-1 is a valid epoch and is returned digit for digit",
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.append("a", producer("p", greatest, 0));
      expect(answer.status).toBe(200);
      expectEcho(answer, greatest, 0);
      const stale = await stream.append("b", producer("p", "9007199254740990", 0));
      expectRefusal(stale, 403);
      expect(stale.headers["producer-epoch"]).toBe(greatest);
      expect((await stream.append("b", producer("p", greatest, 1))).status).toBe(200);
    },
  },
  {
    section: "5.2.1",
    clause: "2^53-1 is a valid sequence number, which leaves a gap",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      const gap = await stream.append("b", producer("p", 0, greatest));
      expectRefusal(gap, 409);
      expect(gap.headers["producer-expected-seq"]).toBe("1");
      expect(gap.headers["producer-received-seq"]).toBe(greatest);
    },
  },
  {
    section: "5.2.1",
    clause: "new data answers 200 with the tail and echoes the epoch and the sequence number",
    async check({ base }) {
      const stream = await Stream.create(base);
      for (const seq of [0, 1, 2]) {
        const answer = await stream.append(String(seq), producer("p", 0, seq));
        expect(answer.status).toBe(200);
        expectEcho(answer, 0, seq);
        expect(answer.offset).toBe((await stream.head()).offset);
      }
      await expectText(stream, "012");
    },
  },
  {
    section: "5.2.1",
    clause: "a producer may begin in any epoch with sequence number 0",
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.append("a", producer("p", 7, 0));
      expect(answer.status).toBe(200);
      expectEcho(answer, 7, 0);
    },
  },
  {
    section: "5.2.1",
    clause: "an unknown producer that does not begin at 0 leaves a gap",
    async check({ base }) {
      const stream = await Stream.create(base);
      const gap = await stream.append("a", producer("p", 0, 3));
      expectRefusal(gap, 409);
      expect(gap.headers["producer-expected-seq"]).toBe("0");
      expect(gap.headers["producer-received-seq"]).toBe("3");
      expect((await stream.head()).offset).toBe(stream.start);
    },
  },
  {
    section: "5.2.1",
    clause: "a duplicate appends nothing, and answers 204 with epoch, highest number and an offset",
    async check({ base }) {
      const stream = await Stream.create(base);
      for (const seq of [0, 1, 2, 3]) await stream.append(String(seq), producer("p", 4, seq));
      const tail = (await stream.head()).offset;
      for (const seq of [3, 2, 1, 0]) {
        const answer = await stream.append("again", producer("p", 4, seq));
        expect(answer.status).toBe(204);
        expectEcho(answer, 4, 3);
        expect(answer.offset > stream.start && answer.offset <= tail).toBe(true);
      }
      expect((await stream.head()).offset).toBe(tail);
      await expectText(stream, "0123");
    },
  },
  {
    section: "5.2.1",
    clause: "the same request sent many times at once is appended once",
    async check({ base }) {
      const stream = await Stream.create(base);
      const answers = await Promise.all(
        Array.from({ length: 12 }, () => stream.append("once", producer("p", 0, 0))),
      );
      expect(answers.filter((answer) => answer.status === 200)).toHaveLength(1);
      expect(answers.filter((answer) => answer.status === 204)).toHaveLength(11);
      await expectText(stream, "once");
    },
  },
  {
    section: "5.2.1",
    clause: "a gap answers 409 with the expected and the received number, and changes nothing",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("0", producer("p", 0, 0));
      const gap = await stream.append("x", producer("p", 0, 5));
      expectRefusal(gap, 409);
      expect(gap.headers["producer-expected-seq"]).toBe("1");
      expect(gap.headers["producer-received-seq"]).toBe("5");
      expect((await stream.append("1", producer("p", 0, 1))).status).toBe(200);
      await expectText(stream, "01");
    },
  },
  {
    section: "5.2.1",
    clause: "a higher epoch begins at 0 again",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      await stream.append("b", producer("p", 0, 1));
      const answer = await stream.append("c", producer("p", 3, 0));
      expect(answer.status).toBe(200);
      expectEcho(answer, 3, 0);
      expect((await stream.append("d", producer("p", 3, 1))).status).toBe(200);
      await expectText(stream, "abcd");
    },
  },
  {
    section: "5.2.1",
    clause: "a higher epoch that does not begin at 0 answers 400, and the old epoch continues",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      expectRefusal(await stream.append("x", producer("p", 1, 1)), 400);
      expectRefusal(await stream.append("x", producer("p", 9, 5)), 400);
      expect((await stream.append("b", producer("p", 0, 1))).status).toBe(200);
      await expectText(stream, "ab");
    },
  },
  {
    section: "5.2.1",
    clause: "a lower epoch answers 403 with the current one, for every sequence number",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 5, 0));
      for (const seq of [0, 1, 17]) {
        const stale = await stream.append("x", producer("p", 4, seq));
        expectRefusal(stale, 403);
        expect(stale.headers["producer-epoch"]).toBe("5");
      }
      await expectText(stream, "a");
    },
  },
  {
    section: "5.2.1",
    clause: "producers are independent, and an id may have any character of a header",
    async check({ base }) {
      const stream = await Stream.create(base);
      const ids = [
        "p",
        "P",
        "p p",
        "a/b?c=d&e",
        "'; DROP TABLE producers; --",
        "0",
        "\u00e9\u00fc",
        "x".repeat(200),
      ];
      for (const seq of [0, 1]) {
        for (const id of ids) {
          const answer = await stream.append(".", producer(id, 0, seq));
          expect(answer.status, id).toBe(200);
          expectEcho(answer, 0, seq);
        }
      }
      await expectText(stream, ".".repeat(2 * ids.length));
    },
  },
  {
    section: "5.2.1",
    clause: "a request that is refused for its content does not use up its sequence number",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      expectRefusal(await stream.append("{", producer("p", 0, 0)), 400);
      expectRefusal(await stream.append("[]", producer("p", 0, 0)), 400);
      expectRefusal(await stream.append("", producer("p", 0, 0)), 400);
      expectRefusal(
        await stream.post("1", { "Content-Type": "text/plain", ...producer("p", 0, 0) }),
        409,
      );
      const answer = await stream.append("1", producer("p", 0, 0));
      expect(answer.status).toBe(200);
      expect(await stream.messages()).toEqual([1]);
    },
  },
  {
    section: "5.2.1",
    clause: "a duplicate is recognised before its Stream-Seq is looked at",
    async check({ base }) {
      const stream = await Stream.create(base);
      expect((await stream.append("a", { ...producer("p", 0, 0), "Stream-Seq": "5" })).status).toBe(
        200,
      );
      expect((await stream.append("a", { ...producer("p", 0, 0), "Stream-Seq": "5" })).status).toBe(
        204,
      );
      await expectText(stream, "a");
    },
  },
  {
    section: "5.2.1",
    clause: "a producer's new data must obey Stream-Seq, and a refusal uses no sequence number",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", { ...producer("p", 0, 0), "Stream-Seq": "5" });
      expectRefusal(await stream.append("x", { ...producer("p", 0, 1), "Stream-Seq": "4" }), 409);
      expect((await stream.append("b", { ...producer("p", 0, 1), "Stream-Seq": "6" })).status).toBe(
        200,
      );
      await expectText(stream, "ab");
    },
  },
  {
    section: "5.2.1",
    clause: "an append to an unknown stream answers 404 with producer headers too",
    async check({ base }) {
      expectRefusal(await new Stream(base).append("a", producer("p", 0, 0)), 404);
    },
  },
  {
    section: "5.2.1",
    clause:
      "a final append of a producer closes the stream, and its retry is a success that says so",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      const final = await stream.append("b", { ...producer("p", 0, 1), "Stream-Closed": "true" });
      expect(final.status).toBe(200);
      expect(final.closed).toBe("true");
      expectEcho(final, 0, 1);
      for (const body of ["b", "another body"]) {
        const retry = await stream.append(body, {
          ...producer("p", 0, 1),
          "Stream-Closed": "true",
        });
        expect(retry.status).toBe(204);
        expect(retry.closed).toBe("true");
        expectEcho(retry, 0, 1);
        expect(retry.offset).toBe(final.offset);
      }
      await expectText(stream, "ab");
    },
  },
  {
    section: "5.2.1",
    clause:
      "a producer closes without data by the next sequence number, and its retry is a success",
    async check({ base }) {
      const stream = await Stream.create(base);
      const appended = await stream.append("a", producer("p", 0, 0));
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const answer = await stream.close(producer("p", 0, 1));
        expect(answer.status).toBe(204);
        expect(answer.closed).toBe("true");
        expect(answer.offset).toBe(appended.offset);
        expectEcho(answer, 0, 1);
      }
    },
  },
  {
    section: "5.2.1",
    clause: "a close of a producer obeys the same rules as its appends",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 2, 0));
      const gap = await stream.close(producer("p", 2, 4));
      expectRefusal(gap, 409);
      expect(gap.headers["producer-expected-seq"]).toBe("1");
      const stale = await stream.close(producer("p", 1, 0));
      expectRefusal(stale, 403);
      expect(stale.headers["producer-epoch"]).toBe("2");
      expectRefusal(await stream.close(producer("p", 3, 1)), 400);
      expect((await stream.head()).closed).toBeUndefined();
    },
  },
  {
    section: "5.2.1",
    clause:
      "on a closed stream every request but the one that closed it answers 409 with Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      const final = await stream.append("b", { ...producer("p", 0, 1), "Stream-Closed": "true" });
      const others = [
        producer("p", 0, 2),
        producer("q", 0, 0),
        producer("p", 0, 0),
        producer("p", 1, 0),
      ];
      for (const headers of others) {
        for (const closing of [{}, { "Stream-Closed": "true" }]) {
          const refused = await stream.append("x", { ...headers, ...closing });
          expectRefusal(refused, 409);
          expect(refused.closed).toBe("true");
          expect(refused.offset).toBe(final.offset);
        }
      }
    },
  },
  {
    section: "5.2.1",
    clause: "the retry of the closing append is a success without Stream-Closed as well",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", { ...producer("p", 0, 0), "Stream-Closed": "true" });
      const retry = await stream.append("a", producer("p", 0, 0));
      expect(retry.status).toBe(204);
      expect(retry.closed).toBe("true");
    },
  },
  {
    section: "5.2.1",
    clause: "a stale epoch on a closed stream gets one of the two errors, with its header",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 3, 0));
      await stream.append("b", { ...producer("p", 3, 1), "Stream-Closed": "true" });
      const refused = await stream.append("x", producer("p", 2, 0));
      expectRefusalIn(refused, [403, 409]);
      if (refused.status === 403) expect(refused.headers["producer-epoch"]).toBe("3");
      else expect(refused.closed).toBe("true");
      await expectText(stream, "ab");
    },
  },
  {
    section: "5.2.1",
    clause:
      "after a close without producer headers a producer's append answers 409 with Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base);
      await stream.append("a", producer("p", 0, 0));
      await stream.close();
      const refused = await stream.append("b", producer("p", 0, 1));
      expectRefusal(refused, 409);
      expect(refused.closed).toBe("true");
    },
  },
  {
    section: "5.2.1",
    clause: "concurrent requests of one producer are handled one after the other",
    async check({ base }) {
      const stream = await Stream.create(base);
      const count = 10;
      let pending = Array.from({ length: count }, (_, seq) => seq);
      for (let round = 0; pending.length > 0; round += 1) {
        expect(round).toBeLessThan(count);
        const answers = await Promise.all(
          pending.map((seq) => stream.append(`${seq};`, producer("p", 0, seq))),
        );
        const gaps = pending.filter((_, index) => answers[index].status === 409);
        const rest = answers
          .filter((answer) => answer.status !== 409)
          .map((answer) => answer.status);
        expect(rest.every((status) => status === 200)).toBe(true);
        expect(gaps.length).toBeLessThan(pending.length);
        pending = gaps;
      }
      await expectText(stream, Array.from({ length: count }, (_, seq) => `${seq};`).join(""));
    },
  },
];
