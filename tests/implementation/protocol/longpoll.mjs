import { expect } from "vitest";
import { sleep } from "../../harness/http.mjs";
import { farOffset, Stream } from "../../harness/stream.mjs";
import { expectRefusal } from "./assertions.mjs";
import { currentInterval } from "./cursor.mjs";

export const rows = [
  {
    section: "5.7",
    clause: "an offset is required",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      expectRefusal(await stream.get("?live=long-poll"), 400);
    },
  },
  {
    section: "5.7",
    clause: "data before the tail is returned at once with offset, cursor and ETag",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const answer = await stream.longPoll("-1");
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("abc");
      expect(answer.offset).toBe(stream.start);
      expect(answer.upToDate).toBe("true");
      expect(answer.cursor).toMatch(/^\d+$/);
      expect(answer.etag).toMatch(/^(W\/)?"[^"]+"$/);
      expect(answer.headers["content-type"]).toBe("text/plain");
    },
  },
  {
    section: "5.7",
    clause: "a wait without data ends with 204, tail, cursor and up to date",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const answer = await stream.longPoll(stream.start);
      expect(answer.status).toBe(204);
      expect(answer.body.length).toBe(0);
      expect(answer.offset).toBe(stream.start);
      expect(answer.upToDate).toBe("true");
      expect(answer.cursor).toMatch(/^\d+$/);
      expect(answer.closed).toBeUndefined();
    },
  },
  {
    section: "5.7",
    clause: "an append ends the wait with the new data",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const waiting = stream.longPoll(stream.start);
      await sleep(100);
      const appended = await stream.append("def");
      const answer = await waiting;
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("def");
      expect(answer.offset).toBe(appended.offset);
      expect(answer.upToDate).toBe("true");
      expect(answer.cursor).toMatch(/^\d+$/);
      expect(answer.etag).toMatch(/^(W\/)?"[^"]+"$/);
    },
  },
  {
    section: "5.7",
    clause: "an append ends the wait of every reader",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const waiting = Array.from({ length: 10 }, () => stream.longPoll(stream.start));
      await sleep(150);
      await stream.append("[1,2]");
      for (const answer of await Promise.all(waiting)) expect(answer.json()).toEqual([1, 2]);
    },
  },
  {
    section: "5.7",
    clause: "no append is lost or doubled between two polls",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const count = 60;
      const writing = (async () => {
        for (let index = 0; index < count; index += 1) {
          await stream.append(String(index));
          if (index % 7 === 0) await sleep(5);
        }
      })();
      const seen = [];
      for (let offset = stream.start; seen.length < count;) {
        const answer = await stream.longPoll(offset);
        if (answer.status === 200) seen.push(...answer.json());
        offset = answer.offset;
      }
      await writing;
      expect(seen).toEqual(Array.from({ length: count }, (_, index) => index));
    },
  },
  {
    section: "5.7",
    clause: "at the end of a closed stream the answer is 204 with Stream-Closed, without any wait",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      await stream.close();
      const begun = performance.now();
      const answer = await stream.longPoll(stream.start);
      expect(performance.now() - begun).toBeLessThan(2_000);
      expect(answer.status).toBe(204);
      expect(answer.offset).toBe(stream.start);
      expect(answer.upToDate).toBe("true");
      expect(answer.closed).toBe("true");
    },
  },
  {
    section: "5.7",
    clause: "the poll that reaches the end of a closed stream has the closure and the data",
    async check({ base }) {
      const stream = await Stream.create(base, {
        body: "abc",
        headers: { "Stream-Closed": "true" },
      });
      const answer = await stream.longPoll("-1");
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("abc");
      expect(answer.closed).toBe("true");
      expect(answer.upToDate).toBe("true");
    },
  },
  {
    section: "5.7",
    clause: "a close ends the wait with Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const waiting = stream.longPoll(stream.start);
      await sleep(100);
      await stream.close();
      const answer = await waiting;
      expect(answer.status).toBe(204);
      expect(answer.closed).toBe("true");
      expect(answer.upToDate).toBe("true");
      expect(answer.offset).toBe(stream.start);
    },
  },
  {
    section: "5.7",
    clause: "a final append ends the wait with its data and Stream-Closed",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const waiting = stream.longPoll(stream.start);
      await sleep(100);
      const final = await stream.append("end", { "Stream-Closed": "true" });
      const answer = await waiting;
      expect(answer.status).toBe(200);
      expect(answer.text).toBe("end");
      expect(answer.offset).toBe(final.offset);
      expect(answer.closed).toBe("true");
    },
  },
  {
    section: "5.7",
    clause: "a poll of an unknown stream answers 404",
    async check({ base }) {
      expectRefusal(await new Stream(base).longPoll("-1"), 404);
      expectRefusal(await new Stream(base).longPoll("now"), 404);
    },
  },
  {
    section: "5.7",
    clause: "a poll from beyond the tail waits at the tail",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const idle = await stream.longPoll(farOffset);
      expect(idle.status).toBe(204);
      expect(idle.offset).toBe(stream.start);
      const waiting = stream.longPoll(farOffset);
      await sleep(100);
      await stream.append("def");
      expect((await waiting).text).toBe("def");
    },
  },
  {
    section: "5.7",
    clause: "a wait on an empty JSON stream returns the new messages as an array",
    async check({ base }) {
      const stream = await Stream.create(base, { contentType: "application/json" });
      const waiting = stream.longPoll("-1");
      await sleep(100);
      await stream.append('{"a": 1}');
      const answer = await waiting;
      expect(answer.text).toBe('[{"a": 1}]');
      expect(answer.headers["content-type"]).toBe("application/json");
    },
  },
  {
    section: "10.1",
    clause: "a 204 is not kept by any cache",
    async check({ base }) {
      const stream = await Stream.create(base);
      const answer = await stream.longPoll(stream.start);
      expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
    },
  },
  {
    section: "10.1",
    clause: "the cursor is the number of the current interval of 20 seconds",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const before = currentInterval();
      const cursor = BigInt((await stream.longPoll("-1")).cursor);
      expect(cursor >= before && cursor <= currentInterval()).toBe(true);
    },
  },
  {
    section: "10.1",
    clause: "equal requests whose cursor is behind get equal cursors",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      for (const cursor of ["0", "1000", String(currentInterval() - 1n)]) {
        const before = currentInterval();
        const answers = await Promise.all(
          Array.from({ length: 5 }, () => stream.longPoll("-1", { cursor })),
        );
        const cursors = new Set(answers.map((answer) => answer.cursor));
        for (const value of cursors) expect(BigInt(value) > BigInt(cursor)).toBe(true);
        if (currentInterval() === before) expect(cursors.size).toBe(1);
      }
    },
  },
  {
    section: "10.1",
    clause: "a cursor that is not behind the current interval always gets a greater one",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const now = currentInterval();
      const cursors = [
        now,
        now + 1n,
        now + 2n,
        now + 50n,
        now + 181n,
        now + 100_000n,
        4_294_967_295n,
        4_294_967_296n,
        9_007_199_254_740_000n,
      ];
      for (const offset of ["-1", stream.start]) {
        // All at once, because each poll from the tail waits.
        const polls = cursors.map((cursor) => stream.longPoll(offset, { cursor: String(cursor) }));
        for (const [index, answer] of (await Promise.all(polls)).entries()) {
          const cursor = cursors[index];
          expect(answer.cursor, `for cursor ${cursor}`).toMatch(/^\d+$/);
          expect(BigInt(answer.cursor) > cursor, `${answer.cursor} for cursor ${cursor}`).toBe(
            true,
          );
        }
      }
    },
  },
  {
    section: "10.1",
    clause: "polls that echo the cursor move it forward only, by at most an hour of intervals each",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      let cursor = BigInt((await stream.longPoll("-1")).cursor);
      for (let poll = 0; poll < 10; poll += 1) {
        const next = BigInt((await stream.longPoll("-1", { cursor: String(cursor) })).cursor);
        expect(next > cursor).toBe(true);
        expect(next - cursor <= 181n).toBe(true);
        cursor = next;
      }
    },
  },
  {
    section: "10.1",
    clause: "a cursor that this server has not sent is ignored",
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      for (const cursor of [
        "",
        "abc",
        "-5",
        "+5",
        "05",
        "1.5",
        "1e3",
        "9007199254740991",
        "9007199254740992",
        "99999999999999999999999999999999",
        "%00",
        "1&cursor=2",
      ]) {
        const before = currentInterval();
        const answer = await stream.longPoll("-1", { cursor });
        expect(answer.status, cursor).toBe(200);
        const returned = BigInt(answer.cursor);
        expect(returned >= before && returned <= currentInterval(), cursor).toBe(true);
        expect((await stream.get(`?offset=-1&cursor=${cursor}`)).text, cursor).toBe("abc");
        const reader = await stream.events("-1", { cursor });
        expect(BigInt((await reader.upToDate()).streamCursor) >= before, cursor).toBe(true);
        reader.close();
      }
    },
  },
];
