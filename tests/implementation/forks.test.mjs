// Forks (protocol 4.2), where the conformance suite does not look: what they cost, how they live
// through deletions, restarts and kills, and what the registry says of them. FORK_ROUNDS and
// FORK_KILLS say how often forks meet deletions and kills, FORK_MIB how large the large source is.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { settled } from "../harness/settled.mjs";
import { firstOffset, freshName, producer, Stream } from "../harness/stream.mjs";

const json = "application/json";
const cold = shell === "server" ? "directory" : true;
const env = { LONG_POLL_TIMEOUT_MS: 300 };
const rounds = Number(process.env.FORK_ROUNDS || 20);
const kills = Number(process.env.FORK_KILLS || 3);
const mebibytes = Number(process.env.FORK_MIB || 48);

let server;

beforeAll(async () => {
  server = await startServer({ cold, env });
});
afterAll(() => server.stop());

const range = (count) => Array.from({ length: count }, (_, index) => index);

/** Sends the PUT that forks a stream, without a content type unless `headers` has one. */
const putFork = (source, fork, { headers, body } = {}) =>
  fork.request("PUT", { body, headers: { "Stream-Forked-From": source.path, ...headers } });

/** Forks a stream. Throws if the server refuses. */
async function forked(source, options) {
  const fork = new Stream(source.base, freshName("fork"), source.contentType);
  const answer = await putFork(source, fork, options);
  if (answer.status !== 201) throw new Error(`PUT answered ${answer.status}: ${answer.text}`);
  fork.start = answer.offset;
  return fork;
}

const gone = (stream) =>
  eventually("the stream is gone", async () => (await stream.head()).status === 404);

describe("requests", () => {
  test("a malformed fork is refused with a reason, and leaves no stream", async () => {
    const source = await Stream.create(server.url, { body: "abc" });
    const at = (offset, sub) => ({
      "Stream-Forked-From": source.path,
      "Stream-Fork-Offset": offset,
      ...(sub === undefined ? {} : { "Stream-Fork-Sub-Offset": sub }),
    });
    for (const [headers, status] of [
      [{ "Stream-Fork-Offset": firstOffset }, 400],
      [{ "Stream-Fork-Sub-Offset": "0" }, 400],
      [at("-1"), 400],
      [at("now"), 400],
      [at(""), 400],
      [at(firstOffset, ""), 400],
      [at(firstOffset, "9007199254740992"), 400],
      [at("0000000000000000_0000000000000004"), 400],
      [{ "Stream-Forked-From": "" }, 400],
      [{ "Stream-Forked-From": "relative" }, 400],
      [{ "Stream-Forked-From": "https://example.com/v1/stream/a" }, 400],
      [{ "Stream-Forked-From": "/v1/stream/" }, 400],
      [{ "Stream-Forked-From": `${source.path}?offset=1` }, 400],
      [{ "Stream-Forked-From": "/v1/stream/%ff" }, 400],
      [{ "Stream-Forked-From": "/v1/stream/__ds/subscriptions" }, 404],
      [{ "Stream-Forked-From": "/v1/stream/__registry__" }, 403],
      [{ "Stream-Forked-From": `/v1/stream/${freshName()}` }, 404],
    ]) {
      const fork = new Stream(server.url);
      const answer = await fork.request("PUT", { headers });
      expect(answer.status, JSON.stringify(headers)).toBe(status);
      expect(answer.json().error.message.length).toBeGreaterThan(10);
      expect(answer.headers["cache-control"]).toBe("no-store");
      expect((await fork.head()).status).toBe(404);
    }
    const self = new Stream(server.url);
    expect((await putFork(self, self)).status).toBe(404);
    expect((await source.delete()).status).toBe(204);
    expect((await source.head()).status).toBe(404);
  });

  test("clients cannot send the calls between a fork and its source", async () => {
    const stream = await Stream.create(server.url, { body: "x" });
    const call = JSON.stringify({ describe: { offset: null, sub_offset: 0 } });
    for (const method of ["GET", "POST", "PATCH"]) {
      const answer = await stream.request(method, {
        body: method === "POST" ? "y" : undefined,
        headers: { "X-Fork-Call": call, "Content-Type": "text/plain" },
      });
      expect(answer.status).toBe({ GET: 200, POST: 204, PATCH: 405 }[method]);
      expect(answer.text).not.toContain("described");
    }
  });

  test("a repeated PUT is recognised after the source has grown, closed and gone", async () => {
    const source = await Stream.create(server.url, { contentType: json, body: "[1,2]" });
    const fork = new Stream(server.url, freshName("fork"), json);
    const options = { headers: { "Stream-TTL": "600" }, body: "[3]" };
    expect((await putFork(source, fork, options)).status).toBe(201);
    for (const change of [
      () => source.append("9"),
      () => source.close(),
      () => source.delete(),
    ]) {
      await change();
      expect((await putFork(source, fork, options)).status).toBe(200);
    }
    expect((await putFork(source, fork, { body: "[3]" })).status).toBe(409);
    expect((await fork.put()).status).toBe(409);
    expect(await fork.messages()).toEqual([1, 2, 3]);
  });

  test("equal PUTs at once create one fork, and different ones leave one winner", async () => {
    const source = await Stream.create(server.url, { contentType: json, body: "[1]" });
    for (const round of range(5)) {
      const fork = new Stream(server.url, freshName(`fork-${round}`), json);
      const answers = await Promise.all(range(4).map(() => putFork(source, fork)));
      expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, 201]);
      const other = new Stream(server.url, freshName(`other-${round}`), json);
      const bodies = ["[2]", "[3]"].map((body) =>
        putFork(source, other, { body, headers: { "Stream-TTL": body === "[2]" ? "60" : "61" } }),
      );
      const statuses = (await Promise.all(bodies)).map(({ status }) => status);
      expect(statuses.sort()).toEqual([201, 409]);
      for (const stream of [fork, other]) expect((await stream.delete()).status).toBe(204);
    }
    await sleep(200);
    expect((await source.delete()).status).toBe(204);
    await gone(source);
  });
});

describe("content", () => {
  test("one page and one event stream cross the fork offset", async () => {
    const source = await Stream.create(server.url, { contentType: json, body: "[1,2]" });
    const fork = await forked(source);
    await source.append('"source"');
    await fork.append('"fork"');
    const page = await fork.read("-1");
    expect(page.json()).toEqual([1, 2, "fork"]);
    expect(page.upToDate).toBe("true");
    const again = await fork.read("-1", { "If-None-Match": page.etag });
    expect(again.status).toBe(304);
    const reader = await fork.events("-1");
    await reader.upToDate();
    expect(reader.messages).toEqual([1, 2, "fork"]);
    await fork.append('"live"');
    await eventually("the reader has it", async () => reader.messages.length === 4);
    reader.close();
    expect(reader.messages.at(-1)).toBe("live");
    // The source's appends do not wake the fork's readers.
    const waiting = fork.longPoll((await fork.head()).offset);
    await source.append('"source again"');
    expect((await waiting).status).toBe(204);
  });

  test("a fork of a closed source is open, and closing one leaves the other", async () => {
    const source = await Stream.create(server.url, { body: "ab" });
    const open = await forked(source);
    await open.close();
    expect((await source.append("c")).status).toBe(204);
    await source.close();
    const fork = await forked(source, { headers: { "Stream-Closed": "true" } });
    expect((await fork.append("x")).status).toBe(409);
    expect((await open.append("x")).status).toBe(409);
    const other = await forked(source);
    expect((await other.append("d")).status).toBe(204);
    expect((await other.bytes()).toString()).toBe("abcd");
  });

  test("a fork has neither the producers nor the Stream-Seq of its source", async () => {
    const source = await Stream.create(server.url);
    const stamp = { ...producer("p", 0, 0), "Stream-Seq": "5" };
    expect((await source.append("a", stamp)).status).toBe(200);
    const fork = await forked(source);
    expect((await fork.append("b", stamp)).status).toBe(200);
    expect((await fork.append("b", stamp)).status).toBe(204);
    expect((await fork.bytes()).toString()).toBe("ab");
  });

  test("a chain of fifty forks is read, and released from its end", async () => {
    const streams = [await Stream.create(server.url, { contentType: json, body: "[0]" })];
    for (const depth of range(50)) {
      streams.push(await forked(streams.at(-1), { body: `[${depth + 1}]` }));
    }
    expect(await streams.at(-1).messages()).toEqual(range(51));
    for (const stream of streams.slice(0, -1)) expect((await stream.delete()).status).toBe(204);
    expect(await streams.at(-1).messages()).toEqual(range(51));
    expect((await streams.at(-1).delete()).status).toBe(204);
    for (const stream of streams.toReversed()) await gone(stream);
  });
});

describe("deletion", () => {
  test("a deleted source answers 410 until its last fork has gone", async () => {
    const source = await Stream.create(server.url, { body: "abc" });
    const forks = [await forked(source), await forked(source)];
    const reader = await source.events((await source.head()).offset);
    await reader.upToDate();
    expect((await source.delete()).status).toBe(204);
    await reader.end();
    for (const answer of [
      await source.head(),
      await source.read("-1"),
      await source.longPoll("-1"),
      await source.append("x"),
      await source.delete(),
    ]) {
      expect(answer.status).toBe(410);
      expect(answer.headers["cache-control"]).toBe("no-store");
    }
    expect((await source.put()).status).toBe(409);
    expect((await putFork(source, new Stream(server.url))).status).toBe(409);
    for (const fork of forks) expect((await fork.bytes()).toString()).toBe("abc");
    expect((await forks[0].delete()).status).toBe(204);
    await sleep(300);
    expect((await source.head()).status).toBe(410);
    expect((await forks[1].delete()).status).toBe(204);
    await gone(source);
    expect((await source.put({ body: "new" })).status).toBe(201);
    expect((await source.bytes()).toString()).toBe("new");
  });

  test("an expired source lives on for its fork", async () => {
    const source = await Stream.create(server.url, {
      body: "abc",
      headers: { "Stream-TTL": "3" },
    });
    const fork = await forked(source, { headers: { "Stream-TTL": "600" } });
    await eventually("the source expires", async () => (await source.head()).status === 410);
    expect((await fork.bytes()).toString()).toBe("abc");
    expect((await fork.delete()).status).toBe(204);
    await gone(source);
  });

  test(`${rounds} rounds of a fork beside the DELETE of its source`, async () => {
    const seen = {};
    for (const round of range(rounds)) {
      const source = await Stream.create(server.url, { contentType: json, body: "[1,2]" });
      const fork = new Stream(server.url, freshName(`race-${round}`), json);
      const [put, deleted] = await Promise.all(
        round % 2 === 0
          ? [putFork(source, fork), source.delete()]
          : [source.delete(), putFork(source, fork)].toReversed(),
      );
      expect(deleted.status).toBe(204);
      expect([201, 404, 409], put.text).toContain(put.status);
      seen[put.status] = (seen[put.status] ?? 0) + 1;
      if (put.status === 201) {
        expect(await fork.messages()).toEqual([1, 2]);
        expect((await fork.delete()).status).toBe(204);
      }
      await gone(source);
    }
    console.log(`fork beside DELETE: ${JSON.stringify(seen)}`);
  }, 300_000);
});

test("the registry names the source of a fork, and hears of the end at the DELETE", async () => {
  const source = await Stream.create(server.url, { body: "x" });
  const fork = await forked(source);
  const registry = new Stream(server.url, "__registry__", json);
  const of = async ({ name }) => {
    const events = await registry.messages();
    return events.filter(({ key }) => key === name);
  };
  await source.delete();
  await eventually("the events", async () => (await of(source)).length === 2);
  const created = (await of(fork))[0];
  expect(created.value.forkedFrom).toBe(source.name);
  expect((await of(source))[1].headers.operation).toBe("delete");
  await fork.delete();
  await gone(source);
  await sleep(500);
  expect(await of(source)).toHaveLength(2);
});

describe.runIf(shell === "worker")("cost", () => {
  /** What `act` costs in all of some streams, and in R2. */
  const spent = async (streams, act) => {
    const counted = async () => ({
      objects: await Promise.all(streams.map((stream) => stream.statistics())),
      r2: await server.coldTier.counts(),
    });
    const before = await counted();
    await act();
    const after = await counted();
    const sum = ({ objects }, field) => objects.reduce((total, each) => total + each[field], 0);
    const operations = ({ r2 }, kind) => r2[kind]?.operations ?? 0;
    return {
      rows: sum(after, "rows_written") - sum(before, "rows_written"),
      calls: sum(after, "calls_sent") - sum(before, "calls_sent"),
      puts: operations(after, "put") - operations(before, "put"),
      gets: operations(after, "get") - operations(before, "get"),
    };
  };

  const measured = async (megabytes) => {
    const source = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const piece = Buffer.alloc(1 << 20, 7);
    let last;
    for (const _ of range(megabytes)) {
      last = (await source.head()).offset;
      expect((await source.append(piece)).status).toBe(204);
    }
    // Sealing and storing are the source's own work. Another fork does them first.
    const first = await forked(source);
    for (const stream of [first, source]) await settled(stream);
    const fork = new Stream(server.url, freshName("fork"), source.contentType);
    const costs = {
      fork: await spent([source, fork], async () => {
        expect((await putFork(source, fork)).status).toBe(201);
        for (const stream of [fork, source]) await settled(stream);
      }),
    };
    expect((await fork.append("own")).status).toBe(204);
    const across = () =>
      spent([source, fork], async () => {
        const pages = await fork.pages(last);
        const bytes = Buffer.concat(pages.map(({ body }) => body));
        expect(Buffer.compare(bytes, Buffer.concat([piece, Buffer.from("own")]))).toBe(0);
      });
    costs["read across the boundary"] = await across();
    const second = await forked(fork);
    for (const stream of [second, fork]) await settled(stream);
    costs["the same, when all is cold"] = await across();
    expect((await first.delete()).status).toBe(204);
    for (const stream of [source, fork]) expect((await stream.delete()).status).toBe(204);
    for (const stream of [second, fork, source]) await settled(stream);
    costs["cascade of three"] = await spent([source, fork, second], async () => {
      expect((await second.delete()).status).toBe(204);
      await gone(source);
      await gone(fork);
      for (const stream of [second, fork, source]) await settled(stream);
    });
    return costs;
  };

  test(`forks cost the same for a source of 1 MiB and of ${mebibytes} MiB`, async () => {
    const [small, large] = [await measured(1), await measured(mebibytes)];
    for (const [what, cost] of Object.entries(large)) console.log(`${what}: ${JSON.stringify(cost)}`);
    // As docs/operations.md says.
    expect(small.fork).toEqual({ rows: 19, calls: 4, puts: 0, gets: 0 });
    expect(small["read across the boundary"]).toEqual({ rows: 0, calls: 0, puts: 0, gets: 1 });
    expect(small["cascade of three"].rows).toBe(13);
    expect(large).toEqual(small);
  }, 900_000);
});

test(`nothing is orphaned over ${kills} kills while forks come and go`, async () => {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-forks-"));
  let own = await startServer({ dataDirectory, cold, env });
  onTestFinished(async () => {
    await own.kill();
    await rm(dataDirectory, { recursive: true, force: true });
  });
  const source = new Stream(own.url, "killed-source", json);
  expect((await source.put({ body: "[1,2,3]" })).status).toBe(201);
  const names = [];
  for (const round of range(kills)) {
    let stopped = false;
    const work = range(4).map(async (worker) => {
      for (let count = 0; !stopped; count += 1) {
        const fork = new Stream(own.url, `killed-${round}-${worker}-${count}`, json);
        names.push(fork.name);
        const put = await putFork(new Stream(own.url, source.name, json), fork).catch(() => {});
        if (!put) return;
        expect([201, 503], put.text).toContain(put.status);
        if (count % 3 === 0) await fork.delete().catch(() => {});
      }
    });
    await sleep(200 + Math.random() * 500);
    await own.kill();
    stopped = true;
    await Promise.all(work);
    own = await startServer({ dataDirectory, cold, env });
    const present = names.map((name) => new Stream(own.url, name, json));
    for (const fork of present) {
      const answer = await fork.read("-1");
      expect([200, 404]).toContain(answer.status);
      if (answer.status === 200) expect(answer.json()).toEqual([1, 2, 3]);
    }
  }
  const again = new Stream(own.url, source.name, json);
  expect((await again.delete()).status).toBe(204);
  for (const name of names) {
    const fork = new Stream(own.url, name, json);
    expect([204, 404]).toContain((await fork.delete()).status);
  }
  // Pins of forks that a kill has cut short are released when their time is over.
  await eventually("the source is gone", async () => (await again.head()).status === 404, {
    timeoutMs: 60_000,
    everyMs: 500,
  });
  console.log(`forks under kills: ${kills} kills, ${names.length} forks begun`);
}, 600_000);
