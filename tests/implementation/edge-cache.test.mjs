// The Worker's edge cache: which requests it answers, and which it must never answer.

import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const page = 1_000;
const token = "secret";
const authorized = { Authorization: `Bearer ${token}` };

async function serve(env = {}, options = { cache: true }) {
  const settings = {
    MAX_CHUNK_BYTES: page,
    LONG_POLL_TIMEOUT_MS: 300,
    SSE_MAX_AGE_MS: 500,
    CACHE_MODE: "shared",
    ...env,
  };
  const server = await startServer({ env: settings, ...options });
  onTestFinished(() => server.stop());
  return server.url;
}

/** A stream with two pages that can never change, and a third at its tail. */
async function filled(base, headers = {}) {
  const stream = await Stream.create(base, { contentType: "application/octet-stream", headers });
  for (let index = 0; index < 5; index += 1)
    await stream.append(Buffer.alloc(page / 2, index), headers);
  return stream;
}

const cacheOf = (answer) => answer.headers["x-cache"];

/** Reads until the cache answers. The cache is filled after the answer to the client. */
const hit = (stream, query = "", headers) =>
  eventually("the cache answers", async () => {
    const answer = await stream.get(query, headers);
    return cacheOf(answer) === "hit" && answer;
  });

describe.skipIf(shell === "server")("the edge cache", () => {
  test("the cache answers a page that can never change exactly as the stream did", async () => {
    const stream = await filled(await serve());
    const first = await stream.get();
    expect(cacheOf(first)).toBe("miss");
    const kept = await hit(stream);
    expect(kept.status).toBe(200);
    expect(kept.body).toEqual(first.body);
    for (const name of [
      "etag",
      "stream-next-offset",
      "content-type",
      "cache-control",
      "content-security-policy",
      "access-control-allow-origin",
      "x-content-type-options",
    ]) {
      expect(kept.headers[name], name).toBe(first.headers[name]);
    }
    expect(kept.upToDate).toBeUndefined();
  });

  test("all spellings of a read share an entry, and another offset has another entry", async () => {
    const base = await serve();
    const stream = await filled(base);
    const first = await stream.get();
    await hit(stream);
    expect(cacheOf(await stream.get("?offset=-1"))).toBe("hit");
    expect(cacheOf(await stream.get("?x=1&offset=-1"))).toBe("hit");
    const escaped = stream.name.replace("t", "%74");
    expect(cacheOf(await new Stream(base, escaped).get())).toBe("hit");
    const second = await stream.read(first.offset);
    expect(cacheOf(second)).toBe("miss");
    expect(second.body).not.toEqual(first.body);
    expect((await hit(stream, `?offset=${first.offset}`)).body).toEqual(second.body);
  });

  test("pages at the tail, failures and one client's state never come from the cache", async () => {
    const base = await serve();
    const stream = await filled(base);
    const pages = await stream.pages();
    await hit(stream);
    const tail = pages.at(-1).offset;
    const last = pages.at(-2).offset;
    const asked = {
      "a page at the tail": [() => stream.read(last), 200, "miss"],
      "the tail": [() => stream.read(tail), 200, "miss"],
      now: [() => stream.read("now"), 200, "bypass"],
      "an unknown stream": [() => new Stream(base, `${stream.name}-unknown`).get(), 404, "miss"],
      "a bad offset": [() => stream.read("bad"), 400, "bypass"],
      HEAD: [() => stream.head(), 200, "bypass"],
      "HEAD with a kept page's URL": [
        () => stream.request("HEAD", { query: "?offset=-1" }),
        200,
        "bypass",
      ],
      "a tag that matches": [
        () => stream.get("", { "If-None-Match": pages[0].etag }),
        304,
        "bypass",
      ],
      "a tag that does not": [() => stream.get("", { "If-None-Match": '"x"' }), 200, "bypass"],
      "a reload": [() => stream.get("", { "Cache-Control": "no-cache" }), 200, "bypass"],
      "a long-poll with data": [() => stream.longPoll("-1"), 200, "bypass"],
      "a long-poll without": [() => stream.longPoll(tail), 204, "bypass"],
      "an append": [() => stream.append("x"), 204, "bypass"],
    };
    for (const [what, [ask, status, cache]] of Object.entries(asked)) {
      for (let time = 0; time < 2; time += 1) {
        const answer = await ask();
        expect([answer.status, cacheOf(answer)], what).toEqual([status, cache]);
      }
    }
    const head = await stream.request("HEAD", { query: "?offset=-1" });
    expect(head.body.length).toBe(0);
    expect(head.offset).not.toBe(pages[0].offset);
    const events = await stream.events("-1");
    expect(events.headers["x-cache"]).toBe("bypass");
    events.close();
  });

  test("a client reads its append at once", async () => {
    const stream = await filled(await serve());
    for (let count = 0; count < 20; count += 1) {
      const before = (await stream.head()).offset;
      await stream.read(before);
      const { offset } = await stream.append(`message ${count}`);
      const answer = await stream.read(before);
      expect(answer.text).toBe(`message ${count}`);
      expect(answer.offset).toBe(offset);
    }
  });

  test("the cache answers pages of a deleted stream for their max-age at most", async () => {
    const stream = await filled(await serve());
    const kept = await stream.get();
    await hit(stream);
    expect((await stream.delete()).status).toBe(204);
    const age = Number(/max-age=(\d+)/.exec(kept.headers["cache-control"])[1]);
    expect(age).toBeLessThanOrEqual(60);
    expect((await stream.get("", { "Cache-Control": "no-cache" })).status).toBe(404);
    expect((await stream.head()).status).toBe(404);
    expect((await stream.put({ body: "anew" })).status).toBe(201);
    expect((await stream.get("", { "Cache-Control": "no-cache" })).text).toBe("anew");
    // A short stream has only a page at its tail, which is not cached.
    const short = await Stream.create(stream.base, { body: "old" });
    expect((await short.get()).text).toBe("old");
    await short.delete();
    expect((await short.get()).status).toBe(404);
    await short.put({ body: "new" });
    expect((await short.get()).text).toBe("new");
  });

  test("with AUTH_TOKEN nothing is cached, or answered without the token", async () => {
    const stream = await filled(await serve({ AUTH_TOKEN: token }), authorized);
    for (let time = 0; time < 3; time += 1) {
      const answer = await stream.get("", authorized);
      expect([answer.status, cacheOf(answer)]).toEqual([200, "bypass"]);
      expect(answer.headers["cache-control"]).toMatch(/\bprivate\b|\bno-store\b/);
      expect((await stream.get()).status).toBe(401);
    }
  });

  test("each answer from the cache has the CORS headers for its request's origin", async () => {
    const origins = ["https://a.example", "https://b.example"];
    const stream = await filled(await serve({ CORS_ORIGINS: origins.join() }));
    await stream.get("", { Origin: origins[0] });
    for (const [origin, allowed] of [
      [origins[0], origins[0]],
      [origins[1], origins[1]],
      ["https://evil.example", undefined],
      [undefined, undefined],
    ]) {
      const answer = await hit(stream, "", origin && { Origin: origin });
      expect(answer.headers["access-control-allow-origin"]).toBe(allowed);
      expect(answer.headers.vary).toBe("Origin");
    }
  });

  test("Server-Timing reports the cache on request, and is not cached", async () => {
    const stream = await filled(await serve());
    const timed = { "X-Debug-Timing": "1" };
    expect((await stream.get("", timed)).headers["server-timing"]).toMatch(
      /\bcache;desc=miss;dur=\d/,
    );
    expect((await hit(stream, "", timed)).headers["server-timing"]).toMatch(
      /^cache;desc=hit;dur=\d+, edge;dur=\d+$/,
    );
    expect((await stream.get()).headers["server-timing"]).toBeUndefined();
    expect((await stream.head(timed)).headers["server-timing"]).toMatch(
      /\bcache;desc=bypass;dur=0/,
    );
  });

  test("in private mode there is no cache", async () => {
    const stream = await filled(await serve({ CACHE_MODE: "private" }));
    for (let time = 0; time < 3; time += 1) expect(cacheOf(await stream.get())).toBeUndefined();
  });

  test("a cache that fails affects no client", async () => {
    const base = await serve({}, { cache: false });
    const stream = await filled(base);
    for (let time = 0; time < 2; time += 1) {
      const answer = await stream.get();
      expect([answer.status, cacheOf(answer)]).toEqual([200, "bypass"]);
    }
    expect((await request(base, "/")).status).toBe(404);
  });
});
