import { expect } from "vitest";
import { Stream } from "../../harness/stream.mjs";
import { expectRefusal, expectText } from "./assertions.mjs";

const closes = ["true", "TRUE", "True", "tRuE"].flatMap((value) => [
  {
    section: "4.1",
    clause: `Stream-Closed: ${value} on a POST closes the stream`,
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.post(undefined, { "Stream-Closed": value });
      expect(answer.status).toBe(204);
      expect(answer.closed).toBe("true");
      expect((await stream.head()).closed).toBe("true");
    },
  },
  {
    section: "4.1",
    clause: `Stream-Closed: ${value} on a PUT creates the stream closed`,
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-Closed": value } });
      expect((await stream.head()).closed).toBe("true");
    },
  },
]);

const ignored = ["false", "yes", "1", "", "truee", '"true"', "on", "0", "null"].flatMap((value) => [
  {
    section: "4.1",
    clause: `Stream-Closed: ${JSON.stringify(value)} on an append counts as absent and is no error`,
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.append("a", { "Stream-Closed": value });
      expect(answer.status).toBe(204);
      expect(answer.closed).toBeUndefined();
      expect((await stream.append("b")).status).toBe(204);
      expect((await stream.head()).closed).toBeUndefined();
    },
  },
  {
    section: "4.1",
    clause: `Stream-Closed: ${JSON.stringify(value)} without a body does not excuse the empty body`,
    async check({ base }) {
      const stream = await Stream.create(base);
      expectRefusal(await stream.append(undefined, { "Stream-Closed": value }), 400);
      expect((await stream.head()).closed).toBeUndefined();
    },
  },
  {
    section: "4.1",
    clause: `Stream-Closed: ${JSON.stringify(value)} on a PUT creates an open stream`,
    async check({ base }) {
      const stream = await Stream.create(base, { headers: { "Stream-Closed": value } });
      expect((await stream.head()).closed).toBeUndefined();
      expect((await stream.append("a")).status).toBe(204);
    },
  },
]);

export const rows = [
  ...closes,
  ...ignored,
  {
    section: "4.1",
    clause: "closing twice succeeds both times with the same final offset",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const first = await stream.close();
      const second = await stream.close();
      for (const answer of [first, second]) {
        expect(answer.status).toBe(204);
        expect(answer.closed).toBe("true");
        expect(answer.offset).toBe(stream.start);
      }
    },
  },
  {
    section: "4.1",
    clause: "everything written before the close stays readable",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "one" });
      await stream.append("two");
      await stream.close();
      await expectText(stream, "onetwo");
    },
  },
  {
    section: "4.1",
    clause: "a closed stream cannot be opened again, neither by POST nor by PUT",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "one" });
      await stream.close();
      expectRefusal(await stream.append("two"), 409);
      expectRefusal(await stream.append("two", { "Stream-Closed": "false" }), 409);
      expectRefusal(await stream.put(), 409);
      expect((await stream.head()).closed).toBe("true");
      await expectText(stream, "one");
    },
  },
  {
    section: "4.1",
    clause: "a final append and the close are one step: the data is stored and nothing can follow",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "one" });
      const answer = await stream.append("two", { "Stream-Closed": "true" });
      expect(answer.status).toBe(204);
      expect(answer.closed).toBe("true");
      const read = await stream.get();
      expect(read.text).toBe("onetwo");
      expect(read.offset).toBe(answer.offset);
      expect(read.closed).toBe("true");
      expectRefusal(await stream.append("three"), 409);
    },
  },
  {
    section: "4.1",
    clause: "a final append that is refused does not close the stream",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      expectRefusal(await stream.append("{", { "Stream-Closed": "true" }), 400);
      expectRefusal(await stream.append("[]", { "Stream-Closed": "true" }), 400);
      expectRefusal(
        await stream.post("x", { "Content-Type": "text/plain", "Stream-Closed": "true" }),
        409,
      );
      expect((await stream.head()).closed).toBeUndefined();
      expect((await stream.append("1")).status).toBe(204);
    },
  },
  {
    section: "5.3",
    clause: "a close answers 204 with the unchanged tail and Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base);
      const appended = await stream.append("abc");
      const answer = await stream.close();
      expect(answer.status).toBe(204);
      expect(answer.offset).toBe(appended.offset);
      expect(answer.closed).toBe("true");
      expect(answer.body.length).toBe(0);
    },
  },
  {
    section: "5.3",
    clause: "closing an unknown stream answers 404",
    async check({ base }) {
      expectRefusal(await new Stream(base).close(), 404);
    },
  },
];
