import { expect } from "vitest";
import { Stream } from "../../harness/stream.mjs";

const entityTag = /^(W\/)?"[\x21\x23-\x7e]+"$/;

const strong = (etag) => etag.replace(/^W\//, "");

function expectNotModified(answer, etag) {
  expect(answer.status).toBe(304);
  expect(answer.body.length).toBe(0);
  expect(answer.etag).toBe(etag);
  expect(answer.headers["cache-control"]).toBeDefined();
}

const matching = [
  ["the tag itself", (etag) => etag],
  ["the tag as a weak one", (etag) => `W/${strong(etag)}`],
  ["a list with the tag at its end", (etag) => `"a", "b" , ${etag}`],
  ["a list with the tag at its beginning", (etag) => `${etag},"z"`],
  ["a list of weak tags", (etag) => `W/"a", W/${strong(etag)}, W/"b"`],
  ["a list with a comma inside of another tag", (etag) => `"a,b", ${etag}`],
  ["any tag at all", () => "*"],
];

const different = [
  ["another tag", () => '"other"'],
  ["a list without the tag", () => '"a", W/"b"'],
  ["the beginning of the tag", (etag) => `${strong(etag).slice(0, -2)}"`],
  ["the tag without its quotes", (etag) => strong(etag).slice(1, -1)],
  ["the tag inside of another tag", (etag) => `"x${strong(etag).slice(1, -1)}"`],
];

export const rows = [
  {
    section: "10.1",
    clause: "a catch-up read has an ETag, the same as long as nothing happens",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const first = await stream.get();
      expect(first.etag).toMatch(entityTag);
      expect((await stream.get()).etag).toBe(first.etag);
      expect((await stream.read(stream.start)).etag).toMatch(entityTag);
    },
  },
  ...matching.map(([what, value]) => ({
    section: "10.1",
    clause: `If-None-Match with ${what} is answered 304 without a body`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const { etag } = await stream.get();
      expectNotModified(await stream.get("", { "If-None-Match": value(etag) }), etag);
    },
  })),
  ...different.map(([what, value]) => ({
    section: "10.1",
    clause: `If-None-Match with ${what} is answered with the data`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const { etag } = await stream.get();
      const answer = await stream.get("", { "If-None-Match": value(etag) });
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("abc");
      expect(answer.etag).toBe(etag);
    },
  })),
  {
    section: "10.1",
    clause: "a 304 still has the offset to continue from",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const first = await stream.get();
      const answer = await stream.get("", { "If-None-Match": first.etag });
      expect(answer.offset).toBe(first.offset);
      expect(answer.upToDate).toBe("true");
    },
  },
  {
    section: "10.1",
    clause: "the ETag changes with an append",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const before = await stream.get();
      await stream.append("def");
      const after = await stream.get("", { "If-None-Match": before.etag });
      expect(after.status).toBe(200);
      expect(after.text).toBe("abcdef");
      expect(after.etag).not.toBe(before.etag);
    },
  },
  {
    section: "10.1",
    clause: "the ETag changes with a close, for the data and for the tail",
    async check({ base }) {
      for (const contentType of ["text/plain", "application/json"]) {
        const stream = await Stream.create(base, { contentType, body: "123" });
        const data = await stream.get();
        const tail = await stream.read(stream.start);
        await stream.close();
        for (const [query, before] of [
          ["", data],
          [`?offset=${stream.start}`, tail],
        ]) {
          const after = await stream.get(query, { "If-None-Match": before.etag });
          expect(after.status).toBe(200);
          expect(after.closed).toBe("true");
          expect(after.etag).not.toBe(before.etag);
          expectNotModified(await stream.get(query, { "If-None-Match": after.etag }), after.etag);
        }
      }
    },
  },
  {
    section: "10.1",
    clause: "a 304 of a closed stream still says that it is closed",
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "abc",
        headers: { "Stream-Closed": "true" },
      });
      const { etag } = await stream.get();
      expect((await stream.get("", { "If-None-Match": etag })).closed).toBe("true");
    },
  },
  {
    section: "10.1",
    clause: "an equal stream under the same name after a delete has another ETag",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const before = await stream.get();
      await stream.delete();
      await stream.put({ body: "abc" });
      const after = await stream.get("", { "If-None-Match": before.etag });
      expect(after.status).toBe(200);
      expect(after.text).toBe("abc");
      expect(after.etag).not.toBe(before.etag);
    },
  },
  {
    section: "10.1",
    clause: "reads from different offsets have different ETags",
    async check({ base }) {
      const stream = await Stream.create(base);
      const offsets = [stream.start];
      for (let index = 0; index < 5; index += 1) offsets.push((await stream.append("x")).offset);
      const tags = await Promise.all(
        offsets.map(async (offset) => (await stream.read(offset)).etag),
      );
      expect(new Set(tags).size).toBe(tags.length);
    },
  },
  {
    section: "10.1",
    clause: "different streams with equal content have different ETags",
    async check({ base }) {
      const [one, other] = await Promise.all([
        Stream.create(base, { body: "abc" }),
        Stream.create(base, { body: "abc" }),
      ]);
      expect((await one.get()).etag).not.toBe((await other.get()).etag);
    },
  },
  {
    section: "10.1",
    clause: "offset=now has no ETag and is never answered 304",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      for (const tag of ["*", (await stream.read(stream.start)).etag]) {
        const answer = await stream.get("?offset=now", { "If-None-Match": tag });
        expect(answer.status).toBe(200);
        expect(answer.etag).toBeUndefined();
      }
    },
  },
  {
    section: "10.1",
    clause: "without a shared cache mode nothing is public",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      await stream.append("def");
      for (const answer of [
        await stream.get(),
        await stream.read(stream.start),
        await stream.longPoll("-1"),
        await stream.read("now"),
        await stream.head(),
      ]) {
        expect(answer.headers["cache-control"]).toBeDefined();
        expect(answer.headers["cache-control"]).not.toMatch(/\bpublic\b|\bs-maxage\b/);
      }
    },
  },
];
