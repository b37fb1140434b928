// Streams with data in both tiers, on R2 and D1 as wrangler runs them, or on an S3 service. Readers
// and writers must not notice.

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { untilStored } from "../harness/stored.mjs";
import { freshName, producer, Stream } from "../harness/stream.mjs";

const graceMs = 1_500;
const env = {
  SEGMENT_MAX_MESSAGES: 3,
  COLLECT_GRACE_MS: graceMs,
  RETRY_MIN_MS: 100,
  RETRY_MAX_MS: 1_000,
  PUT_TIMEOUT_MS: 4_000,
  REPLY_TIMEOUT_MS: 4_000,
  LONG_POLL_TIMEOUT_MS: 1_000,
};
const patience = { timeoutMs: 60_000 };
const registry = "__registry__";

const range = (count) => Array.from({ length: count }, (_, index) => index);
const parts = (offset) => offset.split("_").map(Number);
const offsetOf = (segment, position) =>
  [segment, position].map((each) => String(each).padStart(16, "0")).join("_");

async function serve(options = {}) {
  const server = await startServer({ cold: true, ...options, env: { ...env, ...options.env } });
  onTestFinished(() => server.kill());
  return server;
}

/** The stored segments of a stream, from the admin index if there is one. */
const segmentsOf = (server, stream) => server.coldTier.segmentsOf(stream);
const hasIndex = shell === "worker";

/**
 * Waits until every sealed segment is stored. Then only the open segment can have a table, and has
 * it only if it has content.
 */
async function untilAllStored(server, stream) {
  const { hot, tail } = await eventually(
    `at most one hot table of ${stream.name}`,
    async () => {
      const tail = parts((await stream.head()).offset)[0];
      const hot = (await stream.statistics()).tables.filter((table) => table.startsWith("hot"));
      const isOpen = hot.length === 0 || hot.join() === `hot_${tail}`;
      return isOpen && { hot, tail };
    },
    patience,
  );
  // A sealed segment names the tail until the open one has content.
  return untilStored(server, stream, hot.length === 0 ? tail + 1 : tail);
}

/** Waits until every sealed segment before the tail's is stored. */
const settled = (server, stream) =>
  eventually(
    "all sealed segments to be stored",
    async () => (await segmentsOf(server, stream)).length >= parts((await stream.head()).offset)[0],
    { ...patience, everyMs: 5 },
  );

/** Waits until nothing is left of a stream that has ended. */
async function untilNothingIsLeft(server, stream) {
  await eventually(
    `nothing left of ${stream.name}`,
    async () => {
      const objects = await server.coldTier.objectsOf(stream.name);
      const segments = await segmentsOf(server, stream);
      const streams = await server.coldTier.indexed(stream);
      const { tables } = await stream.statistics();
      return [objects, segments, streams, tables].every((each) => each.length === 0);
    },
    patience,
  );
}

/** The registry's events of a stream. */
async function eventsOf(server, stream) {
  const head = await new Stream(server.url, registry, "application/json").head();
  if (head.status === 404) return [];
  return (await new Stream(server.url, registry, "application/json").messages()).filter(
    ({ key }) => key === stream.name,
  );
}

/**
 * Appends of different sizes, with the units that each adds: messages in JSON, bytes otherwise.
 */
const kinds = {
  "application/json": (index) => {
    const messages = range(1 + (index % 2) * 4).map((each) => ({
      index,
      each,
      text: "ü".repeat((index * 37) % 200),
    }));
    return {
      body: JSON.stringify(messages),
      units: messages.map((message) => JSON.stringify(message)),
    };
  },
  "text/plain": (index) => {
    const body = `${index} line\n `.repeat(1 + ((index * 7) % 20));
    return { body, units: [...Buffer.from(body)] };
  },
  "application/octet-stream": (index) => {
    const body = Buffer.from(
      range(1 + ((index * 91) % 700)).map((each) => (index * 31 + each * 7) % 256),
    );
    return { body, units: [...body] };
  },
};

const unitsOf = (contentType, bodies) =>
  contentType === "application/json"
    ? bodies.flatMap((body) => JSON.parse(body).map((each) => JSON.stringify(each)))
    : [...Buffer.concat(bodies)];

async function everything(stream, offset) {
  return unitsOf(
    stream.contentType,
    (await stream.pages(offset)).map(({ body }) => body),
  );
}

describe.concurrent("a stream in both tiers", () => {
  let server;

  beforeAll(async () => {
    // Pages, index entries and blocks have a few hundred bytes, so that every read covers many.
    server = await startServer({
      cold: true,
      env: { ...env, INDEX_STEP_BYTES: 100, MAX_CHUNK_BYTES: 700 },
    });
  });
  afterAll(() => server?.kill());

  test.each(Object.keys(kinds))(
    "%s is read byte for byte from every offset",
    async (contentType) => {
      const stream = await Stream.create(server.url, { contentType });
      const units = [];
      const known = [{ offset: stream.start, position: 0 }];
      for (const index of range(25)) {
        const append = kinds[contentType](index);
        const answer = await stream.append(append.body);
        expect(answer.status).toBe(204);
        units.push(...append.units);
        known.push({ offset: answer.offset, position: units.length });
        await settled(server, stream);
      }
      const [open] = parts(known.at(-1).offset);
      expect(open).toBeGreaterThanOrEqual(7);
      const rows = await untilStored(server, stream, open);

      const ends = known.map(({ position }) => position);
      // Every offset that was returned, the end of each segment, and the middle of each segment.
      let before = 0;
      for (const { segment, start_offset, end_offset } of rows) {
        expect(start_offset).toBe(offsetOf(segment, 0));
        const [, length] = parts(end_offset);
        known.push(
          { offset: start_offset, position: before },
          { offset: end_offset, position: before + length },
        );
        const middle = Math.floor(length / 2);
        // A read from inside an append begins at the append's start.
        const appends =
          contentType === "application/json"
            ? [before + middle]
            : ends.filter((end) => end <= before + middle);
        known.push({ offset: offsetOf(segment, middle), position: appends.at(-1) });
        before += length;
      }
      for (const { offset, position } of known) {
        expect(await everything(stream, offset), offset).toEqual(units.slice(position));
      }
      expect(await everything(stream, "-1")).toEqual(units);

      const head = await stream.head();
      expect(head.offset).toBe(known[25].offset);
      expect((await stream.read("now")).offset).toBe(head.offset);
    },
  );

  test.each(Object.keys(kinds))("SSE of %s goes on over every seal", async (contentType) => {
    const stream = await Stream.create(server.url, { contentType });
    const early = await stream.events("-1");
    await early.upToDate();
    const units = [];
    for (const index of range(15)) {
      const append = kinds[contentType](index);
      expect((await stream.append(append.body)).status).toBe(204);
      units.push(...append.units);
      await settled(server, stream);
    }
    await untilAllStored(server, stream);
    const late = await stream.events("-1");
    const tail = (await stream.close()).offset;
    for (const reader of [early, late]) {
      await reader.control((control) => control.streamClosed === true, patience);
      expect(reader.controls.at(-1).streamNextOffset).toBe(tail);
      const seen =
        contentType === "application/json"
          ? reader.messages.map((each) => JSON.stringify(each))
          : contentType === "text/plain"
            ? reader.text
            : [...reader.bytes];
      const expected = contentType === "text/plain" ? Buffer.from(units).toString() : units;
      expect(seen).toEqual(expected);
      reader.close();
    }
  });

  test("a long-poll reader continues over every seal", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const expected = range(20);
    const read = (async () => {
      const seen = [];
      for (let next = "-1"; seen.length < expected.length;) {
        const answer = await stream.longPoll(next);
        expect([200, 204]).toContain(answer.status);
        if (answer.status === 200) seen.push(...answer.json());
        next = answer.offset;
      }
      return seen;
    })();
    for (const index of expected) {
      expect((await stream.append(String(index))).status).toBe(204);
      await settled(server, stream);
    }
    expect(await read).toEqual(expected);
    await untilStored(server, stream, 6);
    expect((await stream.longPoll(offsetOf(2, 1))).json()[0]).toBe(7);
  });

  test("closing moves the whole stream to the cold tier", async () => {
    const stream = await Stream.create(server.url);
    for (const index of range(7)) {
      await stream.append(`${index},`);
      await settled(server, stream);
    }
    const answer = await stream.append("last", { ...producer("p", 0, 0), "Stream-Closed": "true" });
    expect(answer.closed).toBe("true");
    await untilStored(server, stream, 3);
    await eventually(
      "no hot table",
      async () => !(await stream.statistics()).tables.some((table) => table.startsWith("hot")),
      patience,
    );

    const head = await stream.head();
    expect(head.closed).toBe("true");
    const page = await stream.get();
    expect(page.text).toBe("0,1,2,3,4,5,6,last");
    expect(page.closed).toBe("true");
    expect(page.offset).toBe(head.offset);
    expect((await stream.append("more")).status).toBe(409);
    const retry = await stream.append("last", { ...producer("p", 0, 0), "Stream-Closed": "true" });
    expect(retry.status).toBe(204);
    expect(retry.offset).toBe(answer.offset);
    expect((await stream.read(answer.offset)).closed).toBe("true");
  });

  test("producers and Stream-Seq are known after their rows are gone", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const appended = async (status, ...append) => {
      expect((await stream.append(...append)).status).toBe(status);
      await settled(server, stream);
    };
    for (const seq of range(4)) await appended(200, "1", producer("p", 0, seq));
    await appended(204, "1", { "Stream-Seq": "m" });
    for (const seq of range(4)) await appended(200, "2", producer("q", 7, seq));
    await untilStored(server, stream, 3);

    expect((await stream.append("0", producer("p", 0, 3))).status).toBe(204);
    expect((await stream.append("0", producer("p", 0, 0))).status).toBe(204);
    expect((await stream.append("0", producer("p", 0, 5))).status).toBe(409);
    expect((await stream.append("0", producer("q", 6, 0))).status).toBe(403);
    expect((await stream.append("0", { "Stream-Seq": "l" })).status).toBe(409);
    expect((await stream.append("0", producer("p", 0, 4))).status).toBe(200);
    expect((await stream.append("0", { "Stream-Seq": "n" })).status).toBe(204);
    expect(await stream.messages()).toHaveLength(11);
  });

  test.runIf(hasIndex)("the admin index lists streams and segments correctly", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const begun = Date.now();
    for (const index of range(8)) {
      await stream.append(`[${index}, ${index}]`);
      await settled(server, stream);
    }
    const rows = await untilStored(server, stream, 4);
    const objects = new Map(
      (await server.coldTier.objectsOf(stream.name)).map(({ key, size }) => [key, size]),
    );
    for (const [index, row] of rows.entries()) {
      expect(row).toMatchObject({
        segment: index,
        start_offset: offsetOf(index, 0),
        end_offset: offsetOf(index, 4),
        messages: 4,
        bytes: objects.get(row.r2_key),
      });
      expect(Math.abs(row.created_at - begun)).toBeLessThan(60_000);
    }
    const [listed, ...more] = await server.coldTier.indexed(stream);
    expect(more).toEqual([]);
    expect(listed).toMatchObject({
      content_type: "application/json",
      incarnation: rows[0].incarnation,
      deleted_at: null,
    });
    expect(Math.abs(listed.created_at - begun)).toBeLessThan(60_000);
  });
});

describe.concurrent("the end of a stream", () => {
  let server;

  beforeAll(async () => {
    server = await startServer({ cold: true, env });
  });
  afterAll(() => server?.kill());

  async function filled(options) {
    const stream = await Stream.create(server.url, options);
    for (const index of range(8)) {
      expect((await stream.append(`${index},`)).status).toBe(204);
      await settled(server, stream);
    }
    await untilStored(server, stream, 2);
    return stream;
  }

  test("a deleted stream leaves no object and no row", async () => {
    const stream = await filled();
    const ended = performance.now();
    expect((await stream.delete()).status).toBe(204);
    expect((await stream.get()).status).toBe(404);
    // A client may still be reading.
    const kept = await server.coldTier.objectsOf(stream.name);
    if (performance.now() - ended < graceMs) expect(kept).toHaveLength(2);
    await untilNothingIsLeft(server, stream);
    expect(performance.now() - ended).toBeGreaterThan(graceMs - 500);
  });

  test("an expired stream leaves no object and no row, without any request", async () => {
    const stream = await filled({ headers: { "Stream-TTL": "8" } });
    const asked = (
      await eventually(
        "the expiry",
        async () => (await eventsOf(server, stream)).length === 2 && eventsOf(server, stream),
        patience,
      )
    ).at(-1);
    expect(asked).toEqual({ type: "stream", key: stream.name, headers: { operation: "delete" } });
    await untilNothingIsLeft(server, stream);
    expect((await stream.get()).status).toBe(404);
  });

  test("a stream created again while the old one is collected keeps its objects", async () => {
    const stream = await filled();
    const old = (await server.coldTier.objectsOf(stream.name)).map(({ key }) => key);
    expect((await stream.delete()).status).toBe(204);
    expect((await stream.put()).status).toBe(201);
    for (const index of range(8)) {
      expect((await stream.append(`new ${index},`)).status).toBe(204);
      await settled(server, stream);
    }
    const text = range(8)
      .map((index) => `new ${index},`)
      .join("");
    expect((await stream.get()).text).toBe(text);
    const rows = await untilStored(server, stream, 2);
    for (const { r2_key } of rows) expect(old).not.toContain(r2_key);
    await sleep(graceMs + 1_500);
    expect(await untilStored(server, stream, 2)).toEqual(rows);
    expect((await stream.get()).text).toBe(text);
    const events = await eventually(
      "three events",
      async () => (await eventsOf(server, stream)).length === 3 && eventsOf(server, stream),
      patience,
    );
    expect(events.map(({ headers }) => headers.operation)).toEqual(["insert", "delete", "insert"]);
    await stream.delete();
    await untilNothingIsLeft(server, stream);
  });

  test("the registry gets each creation and each end, once, in order", async () => {
    const names = range(5).map(() => freshName("registered"));
    const begun = Date.now();
    const streams = names.map((name) => new Stream(server.url, name, "text/plain; charset=utf-8"));
    await Promise.all(streams.map((stream) => stream.put()));
    // A repeated creation changes nothing, and sends no event.
    await Promise.all(streams.map((stream) => stream.put()));
    await Promise.all(streams.map((stream) => stream.delete()));
    for (const stream of streams) {
      const events = await eventually(
        "both events",
        async () => (await eventsOf(server, stream)).length >= 2 && eventsOf(server, stream),
        patience,
      );
      expect(events).toEqual([
        {
          type: "stream",
          key: stream.name,
          value: {
            path: stream.name,
            contentType: "text/plain; charset=utf-8",
            createdAt: expect.any(Number),
          },
          headers: { operation: "insert" },
        },
        { type: "stream", key: stream.name, headers: { operation: "delete" } },
      ]);
      expect(Math.abs(events[0].value.createdAt - begun)).toBeLessThan(60_000);
    }
    await sleep(500);
    for (const stream of streams) expect(await eventsOf(server, stream)).toHaveLength(2);
  });

  test("clients read the registry and cannot write to it", async () => {
    await eventually(
      "a registry",
      async () => (await new Stream(server.url, registry).head()).status === 200,
      patience,
    );
    for (const name of [registry, "%5F_registry__"]) {
      const stream = new Stream(server.url, name, "application/json");
      const before = (await stream.head()).offset;
      for (const answer of [
        await stream.put(),
        await stream.append("1"),
        await stream.close(),
        await stream.delete(),
      ])
        expect(answer.status).toBe(403);
      expect((await stream.head()).status).toBe(200);
      expect(parts((await stream.head()).offset)[0]).toBeGreaterThanOrEqual(parts(before)[0]);
      expect((await stream.messages()).every(({ type }) => type === "stream")).toBe(true);
    }
  });
});

test("a read returns the same before and after its segment is stored", async () => {
  const own = await serve({
    env: {
      CACHE_MODE: "shared",
      SEGMENT_MAX_MESSAGES: 20,
      INDEX_STEP_BYTES: 100,
      MAX_CHUNK_BYTES: 400,
    },
  });
  for (const contentType of Object.keys(kinds)) {
    await own.coldTier.disturb({ put: { fail: 1 } });
    const stream = await Stream.create(own.url, { contentType });
    for (const index of range(30)) await stream.append(kinds[contentType](index).body);
    // The last page changes when its segment is sealed, because more may follow.
    const before = (await stream.pages()).slice(0, -1);
    expect(before.length).toBeGreaterThan(3);
    const offsets = ["-1", ...before.slice(0, -1).map(({ offset }) => offset)];
    const hot = await Promise.all(offsets.map((offset) => stream.read(offset)));
    expect(await segmentsOf(own, stream)).toEqual([]);
    await own.coldTier.disturb({});
    await untilAllStored(own, stream);
    const cold = await Promise.all(offsets.map((offset) => stream.read(offset)));
    for (const [index, offset] of offsets.entries()) {
      expect(cold[index].body.equals(hot[index].body), offset).toBe(true);
      for (const name of [
        "etag",
        "stream-next-offset",
        "stream-up-to-date",
        "stream-closed",
        "content-type",
      ]) {
        expect(cold[index].headers[name], `${name} at ${offset}`).toBe(hot[index].headers[name]);
      }
      const again = await stream.read(offset, { "If-None-Match": hot[index].etag });
      expect(again.status).toBe(304);
      expect(again.body.length).toBe(0);
    }
  }
});

test("the statistics of a stream say what its timers are for", async () => {
  const server = await serve();
  const stream = await Stream.create(server.url, { body: "x", headers: { "Stream-TTL": "3600" } });
  const { timers } = await stream.statistics();
  expect(timers.expiry).toBeGreaterThan(Date.now() + 3_500_000);
  expect(timers["segment-age"]).toBeGreaterThan(Date.now());
  expect(timers).not.toHaveProperty("put");
});

test("a quiet stream is moved at its maximum age", async () => {
  const server = await serve({ env: { SEGMENT_MAX_MESSAGES: 1_000, SEGMENT_MAX_AGE_MS: 5_000 } });
  const stream = await Stream.create(server.url);
  await stream.append("a");
  const { offset } = await stream.append("b");
  const rows = await untilStored(server, stream, 1);
  expect(rows[0]).toMatchObject({ messages: 2, end_offset: offset });
  expect((await stream.get()).text).toBe("ab");
  expect((await stream.read(offset)).text).toBe("");
  expect((await stream.append("c")).offset).toBe(offsetOf(1, 1));
  expect((await stream.read(offset)).text).toBe("c");
});

test("appends of 16 MiB are moved and read back", async () => {
  const server = await serve({ env: { SEGMENT_MAX_MESSAGES: 100_000 } });
  const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
  const written = [];
  for (const index of range(3)) {
    const body = Buffer.alloc(16 << 20);
    for (let at = 0; at < body.length; at += 4)
      body.writeUInt32LE((at * 2_654_435_761 + index) >>> 0, at);
    expect((await stream.append(body)).status).toBe(204);
    written.push(body);
  }
  await untilStored(server, stream, 3);
  expect((await stream.bytes()).equals(Buffer.concat(written))).toBe(true);
  // A read from inside an append begins at the append's start.
  expect(
    (await stream.bytes(offsetOf(1, 12_345_678))).equals(Buffer.concat(written.slice(1))),
  ).toBe(true);

  const json = await Stream.create(server.url, { contentType: "application/json" });
  const message = JSON.stringify({ large: "x".repeat((16 << 20) - 100) });
  expect((await json.append(message)).status).toBe(204);
  expect((await json.append("[1,2]")).status).toBe(204);
  await untilStored(server, json, 1);
  const pages = await json.pages();
  expect(pages).toHaveLength(1);
  // Compared as one boolean, because a difference would be printed in full.
  expect(pages[0].text === `[${message},1,2]`).toBe(true);
});

test("the registry and the index are updated even if clients need a token", async () => {
  const server = await serve({ env: { AUTH_TOKEN: "secret" } });
  const headers = { Authorization: "Bearer secret" };
  const name = freshName();
  expect((await request(server.url, `/v1/stream/${name}`, { method: "PUT", headers })).status).toBe(
    201,
  );
  expect((await request(server.url, `/v1/stream/${registry}`)).status).toBe(401);
  await eventually(
    "the event",
    async () =>
      (await request(server.url, `/v1/stream/${registry}`, { headers })).text.includes(name),
    patience,
  );
  if (hasIndex)
    await eventually(
      "the row",
      async () => (await server.coldTier.indexed({ name })).length === 1,
      patience,
    );
});

describe("a damaged segment", () => {
  const damages = {
    "a changed byte": async (tier, key) => {
      const bytes = await tier.object(key);
      bytes[Math.floor(bytes.length / 2)] ^= 1;
      await tier.replace(key, bytes);
    },
    "an object that is cut": async (tier, key) => {
      const bytes = await tier.object(key);
      await tier.replace(key, bytes.subarray(0, Math.floor(bytes.length / 3)));
    },
    "no object": (tier, key) => tier.remove(key),
  };

  test.each(Object.keys(damages))("%s is reported, and affects nothing else", async (damage) => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const text = (index) => `${index}`.repeat(200);
    for (const index of range(10)) {
      await stream.append(text(index));
      await settled(server, stream);
    }
    const rows = await untilStored(server, stream, 3);
    await damages[damage](server.coldTier, rows[1].r2_key);

    const broken = await stream.read(rows[1].start_offset);
    expect(broken.status).toBe(500);
    expect(broken.headers["cache-control"]).toMatch(/no-store/);
    expect(broken.json().error.message).toMatch(/segment 1\b/);
    expect(broken.headers.etag).toBeUndefined();
    const live = await stream.events(rows[1].start_offset);
    expect([200, 500]).toContain(live.status);
    expect(live.chunks ?? []).toEqual([]);
    live.close?.();

    expect((await stream.read(rows[2].start_offset)).text).toBe(
      range(4)
        .map((index) => text(index + 6))
        .join(""),
    );
    for (const index of range(6)) {
      expect((await stream.append(text(index))).status).toBe(204);
      await settled(server, stream);
    }
    await eventually(
      "the next segments",
      async () => (await segmentsOf(server, stream)).length === 5,
      patience,
    );
    expect((await stream.head()).status).toBe(200);
    // Data before the damage can be read, but perhaps not in the same page.
    const whole = await stream.get().catch(() => undefined);
    if (whole?.status === 200) expect(whole.text.startsWith(text(0))).toBe(true);
    await stream.delete();
    await untilNothingIsLeft(server, stream);
  });
});

describe("a cold tier that fails", () => {
  const disturbances = {
    "fails, delays and lies": {
      put: { fail: 0.4, lie: 0.3, delayMs: 800 },
      delete: { fail: 0.3, lie: 0.3 },
      index: { fail: 0.3, lie: 0.3, delayMs: 300 },
    },
    "does not answer": { put: { delayMs: 1_000_000 } },
    "always fails": { put: { fail: 1 }, index: { fail: 1 } },
    "always lies": { put: { lie: 1 }, index: { lie: 1 } },
  };

  test.concurrent.each(Object.keys(disturbances))(
    "one that %s delays no append, and in the end nothing is lost or left behind",
    async (disturbance) => {
      const server = await startServer({
        cold: true,
        env: {
          ...env,
          PUT_TIMEOUT_MS: 1_500,
          REPLY_TIMEOUT_MS: 1_500,
          RETRY_MAX_MS: 500,
          COLLECT_GRACE_MS: 4_000,
        },
      });
      try {
        await server.coldTier.disturb(disturbances[disturbance]);
        const stream = await Stream.create(server.url, { contentType: "application/json" });
        const offsets = [];
        const times = [];
        for (const index of range(120)) {
          const begun = performance.now();
          const answer = await stream.append(String(index));
          times.push(performance.now() - begun);
          expect(answer.status).toBe(204);
          offsets.push(answer.offset);
          if (index % 10 === 0) await sleep(60);
        }
        // A machine may stall a few times. An append that waited for the tier would do so at every
        // seal.
        times.sort((one, other) => one - other);
        expect(times.at(-6)).toBeLessThan(1_000);
        expect(await stream.messages()).toEqual(range(120));
        if (disturbance === "does not answer") await sleep(3_000);
        await server.coldTier.disturb({});
        await stream.close();
        await eventually(
          "all segments stored and no other object",
          async () => {
            const rows = await segmentsOf(server, stream);
            const keys = (await server.coldTier.objectsOf(stream.name)).map(({ key }) => key);
            const messages = rows.reduce((sum, row) => sum + row.messages, 0);
            return (
              messages === 120 &&
              keys.join() ===
                rows
                  .map(({ r2_key }) => r2_key)
                  .sort()
                  .join()
            );
          },
          { timeoutMs: 40_000, everyMs: 200 },
        );
        expect(await stream.messages()).toEqual(range(120));
        for (const [index, offset] of offsets.entries()) {
          if (index % 7 === 0)
            expect((await stream.messages(offset))[0]).toBe(range(120)[index + 1]);
        }
        await stream.delete();
        await untilNothingIsLeft(server, stream);
      } finally {
        await server.kill();
      }
    },
    240_000,
  );
});
