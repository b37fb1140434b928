// The operator's settings: an invalid value is reported by name, and a valid one takes effect.

import { existsSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { request } from "../harness/http.mjs";
import { repositoryRoot, shell, startServer } from "../harness/server.mjs";
import { settings } from "../harness/settings.mjs";
import { Stream } from "../harness/stream.mjs";

async function serve(env) {
  const server = await startServer({ env });
  onTestFinished(() => server.stop());
  return server.url;
}

describe("limits", () => {
  const numbers = settings.filter(({ least }) => least !== undefined);

  async function expectRefusedStart(env, name) {
    // A Worker cannot refuse to start. It reports the error in its answers.
    if (shell === "server")
      return expect(startServer({ env })).rejects.toThrow(
        `exit code 1, signal null\nerror: ${name} must be`,
      );
    const base = await serve(env);
    const stream = new Stream(base);
    const answers = [
      await stream.put(),
      await stream.append("x"),
      await stream.get(),
      await stream.delete(),
      await stream.request("OPTIONS"),
      await request(base, "/"),
    ];
    for (const answer of answers) {
      expect(answer.status).toBe(500);
      expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
      const { error } = answer.json();
      expect(error.code).toMatch(/^[a-z][a-z0-9_]*$/);
      expect(error.message).toContain(name);
      expect(error.message).toMatch(/^[^\r\n]{10,300}$/);
    }
    const head = await stream.head();
    expect(head.status).toBe(500);
    expect(head.body.length).toBe(0);
  }

  const values = ["abc", "-1", "1.5", "1e6", "0", " 5", "0x10", "NaN", "99999999999999999999"];
  // A limit that may be 0 gets the value before it.
  const bad = (least, at) => (values[at] === "0" && least === 0 ? values[at - 1] : values[at]);
  const cases = numbers.flatMap(({ name, least, greatest }, index) => [
    [name, bad(least, index % values.length)],
    [name, String(greatest + 1)],
  ]);

  test.each(cases)("%s set to %o is refused by name", (name, value) =>
    expectRefusedStart({ [name]: value }, name),
  );

  test.each(["CACHE_MODE", "DEBUG_TIMING"])(
    "%s set to something unknown is refused by name",
    (name) => expectRefusedStart({ [name]: "perhaps" }, name),
  );

  test.each([
    ["CORS_ORIGINS", "app.example"],
    ["CORS_ORIGINS", "https://app.example/path"],
    ["PUBLIC_URL", "streams.example"],
    ["PUBLIC_URL", "https://streams.example?x"],
    ["RETRY_MIN_MS", "600001"],
    ["AUTH_TOKEN", ""],
    ["AUTH_TOKEN", " secret"],
    ["JWT_SECRET", ""],
    ["JWT_SECRET", "a short secret"],
    ["JWT_SECRET", `${"x".repeat(32)},`],
    ["JWT_SECRET", `${"x".repeat(32)}, ${"y".repeat(32)}`],
    ["WEBHOOK_SIGNING_KEY", ""],
    ["WEBHOOK_SIGNING_KEY", "AQEBAQ"],
  ])("%s set to %o is refused by name", (name, value) =>
    expectRefusedStart({ [name]: value }, name),
  );

  // `[vars]` of wrangler.toml can have any value of TOML.
  test.skipIf(shell === "server").each(["JWT_SECRET", "AUTH_TOKEN", "RETRY_MIN_MS"])(
    "%s that is no text is refused by name",
    (name) => expectRefusedStart({ [name]: ["x".repeat(32)] }, name),
  );

  test("the long-poll timeout can be set", async () => {
    const stream = await Stream.create(await serve({ LONG_POLL_TIMEOUT_MS: 800 }));
    const begun = performance.now();
    expect((await stream.longPoll(stream.start)).status).toBe(204);
    const took = performance.now() - begun;
    expect(took).toBeGreaterThan(700);
    expect(took).toBeLessThan(10_000);
  });

  test("the age and the heartbeats of an SSE read can be set", async () => {
    const stream = await Stream.create(
      await serve({ SSE_MAX_AGE_MS: 2_500, SSE_HEARTBEAT_MS: 400 }),
    );
    const begun = performance.now();
    const reader = await stream.events("-1");
    await reader.end({ timeoutMs: 20_000 });
    const took = performance.now() - begun;
    expect(took).toBeGreaterThan(1_500);
    expect(took).toBeLessThan(20_000);
    expect(reader.comments.length).toBeGreaterThanOrEqual(1);
    expect(reader.comments.length).toBeLessThanOrEqual(took / 400 + 1);
  });
});

describe("AUTH_TOKEN", () => {
  const token = "s3cret-token/+=";
  const authorized = { Authorization: `Bearer ${token}` };
  const guarded = () => serve({ AUTH_TOKEN: token });

  const wrong = [
    ["no token", {}],
    ["another token", { Authorization: "Bearer wrong" }],
    ["the beginning of the token", { Authorization: `Bearer ${token.slice(0, -1)}` }],
    ["more than the token", { Authorization: `Bearer ${token}=` }],
    ["the token in another case", { Authorization: `Bearer ${token.toUpperCase()}` }],
    ["an empty token", { Authorization: "Bearer " }],
    ["the token without its scheme", { Authorization: token }],
    ["the token under another scheme", { Authorization: `Basic ${token}` }],
  ];

  test("a request without the right token is answered 401 with WWW-Authenticate", async () => {
    const base = await guarded();
    const stream = new Stream(base);
    expect((await stream.put({ body: "abc", headers: authorized })).status).toBe(201);
    for (const [what, given] of wrong) {
      const headers = { ...given, Origin: "https://a.example" };
      const answers = [
        await stream.get("", headers),
        await stream.get("?offset=now&live=long-poll", headers),
        await stream.get("?offset=-1&live=sse", headers),
        await stream.append("x", headers),
        await stream.put({ headers }),
        await stream.delete(headers),
        await new Stream(base).get("", headers),
        await request(base, "/v1/stream/%zz", { headers }),
        await request(base, "/v1/stream/__ds/subscriptions/x", { headers }),
      ];
      for (const answer of answers) {
        expect(answer.status, what).toBe(401);
        expect(answer.headers["www-authenticate"]).toMatch(/^Bearer\b/);
        expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
        expect(answer.headers["access-control-allow-origin"]).toBe("*");
        expect(answer.json().error.code).toMatch(/^[a-z][a-z0-9_]*$/);
      }
      expect((await stream.head(headers)).status).toBe(401);
    }
    expect((await stream.get("", authorized)).text).toBe("abc");
  });

  test("with the right token everything works, and the scheme is case-insensitive", async () => {
    const base = await guarded();
    for (const scheme of ["Bearer", "bearer", "BEARER"]) {
      const headers = { Authorization: `${scheme} ${token}` };
      const stream = new Stream(base);
      expect((await stream.put({ headers })).status).toBe(201);
      expect((await stream.append("x", headers)).status).toBe(204);
      expect((await stream.get("", headers)).text).toBe("x");
      const reader = await stream.events("-1", { headers });
      await reader.upToDate();
      reader.close();
      expect((await stream.delete(headers)).status).toBe(204);
    }
  });

  test("a preflight needs no token", async () => {
    const base = await guarded();
    const answer = await new Stream(base).request("OPTIONS", {
      headers: { Origin: "https://example.com", "Access-Control-Request-Method": "PUT" },
    });
    expect(answer.status).toBe(204);
    expect(answer.headers["access-control-allow-headers"].toLowerCase()).toContain("authorization");
  });

  test("without AUTH_TOKEN no token is required, and any is ignored", async () => {
    const stream = await Stream.create(await serve({}), { body: "abc" });
    expect((await stream.get("", authorized)).text).toBe("abc");
  });
});

describe("timings", () => {
  const timing = /^\w+(;\w+=("[^"]*"|[^;,"]+))*;dur=\d+(\.\d+)?/;

  test("Server-Timing is sent only when a request asks for it", async () => {
    const stream = await Stream.create(await serve({}), { body: "abc" });
    const asked = { "X-Debug-Timing": "1" };
    for (const answer of [
      await stream.get("", asked),
      await stream.append("x", asked),
      await stream.head(asked),
      await stream.put({ headers: asked }),
    ]) {
      expect(answer.headers["server-timing"]).toMatch(timing);
    }
    for (const headers of [{}, { "X-Debug-Timing": "0" }])
      expect((await stream.get("", headers)).headers["server-timing"]).toBeUndefined();
  });

  test("DEBUG_TIMING=1 sends it with every answer", async () => {
    const stream = await Stream.create(await serve({ DEBUG_TIMING: "1" }), { body: "abc" });
    for (const answer of [await stream.get(), await stream.append("x"), await stream.head()])
      expect(answer.headers["server-timing"]).toMatch(timing);
  });
});

describe("CACHE_MODE", () => {
  const page = 1_000;

  // Each kind of answer, and whether it can change.
  async function answers(base, headers = {}) {
    const stream = await Stream.create(base, { contentType: "application/octet-stream", headers });
    for (let index = 0; index < 5; index += 1)
      await stream.append(Buffer.alloc(page, index), headers);
    const tail = (await stream.head(headers)).offset;
    const full = await stream.read("-1", headers);
    const second = await stream.read((await stream.longPoll("-1", { headers })).offset, headers);
    const arePages = [full, second].map(({ upToDate }) => upToDate === undefined);
    const events = await stream.events("-1", { headers });
    events.close();
    return {
      arePages,
      immutable: { "a full page": full, "the page after it": second },
      others: {
        "a page at the tail": await stream
          .read(second.offset, headers)
          .then(async (third) =>
            stream.read((await stream.read(third.offset, headers)).offset, headers),
          ),
        "the tail": await stream.read(tail, headers),
        now: await stream.read("now", headers),
        "a long-poll without data": await stream.longPoll(tail, { headers }),
        HEAD: await stream.head(headers),
        "an SSE read": events,
        "an unknown stream": await new Stream(base).get("", headers),
        "a bad offset": await stream.read("bad", headers),
        "an append": await stream.append("x", headers),
        "a PUT": await stream.put({ headers }),
        "a preflight": await stream.request("OPTIONS", { headers }),
      },
    };
  }

  const env = { MAX_CHUNK_BYTES: page, LONG_POLL_TIMEOUT_MS: 200 };
  const cacheControl = (answer) => answer.headers["cache-control"];

  test("private is the default: nothing is public", async () => {
    for (const mode of [{}, { CACHE_MODE: "private" }]) {
      const { arePages, immutable, others } = await answers(await serve({ ...env, ...mode }));
      expect(arePages).toEqual([false, false]);
      for (const [what, answer] of Object.entries({ ...immutable, ...others })) {
        expect(cacheControl(answer), what).toBeDefined();
        expect(cacheControl(answer), what).not.toMatch(/\bpublic\b|\bs-maxage\b/);
      }
    }
  });

  test("shared makes only pages public that can never change", async () => {
    const { arePages, immutable, others } = await answers(
      await serve({ ...env, CACHE_MODE: "shared" }),
    );
    expect(arePages).toEqual([true, true]);
    for (const [what, answer] of Object.entries(immutable)) {
      expect(cacheControl(answer), what).toMatch(/\bpublic\b/);
      expect(cacheControl(answer), what).toMatch(/\bmax-age=[1-9]\d*\b/);
    }
    for (const [what, answer] of Object.entries(others)) {
      expect(cacheControl(answer), what).toBeDefined();
      expect(cacheControl(answer), what).not.toMatch(/\bpublic\b|\bs-maxage\b/);
    }
  });

  test("no shared cache may keep content that a token protects", async () => {
    const headers = { Authorization: "Bearer secret" };
    const base = await serve({ ...env, CACHE_MODE: "shared", AUTH_TOKEN: "secret" });
    const { immutable, others } = await answers(base, headers);
    for (const [what, answer] of Object.entries({ ...immutable, ...others })) {
      expect(cacheControl(answer), what).toMatch(/\bprivate\b|\bno-store\b/);
      expect(cacheControl(answer), what).not.toMatch(/\bpublic\b|\bs-maxage\b/);
    }
  });

  test("a client's own X-Cache-Mode is ignored", async () => {
    const { arePages, immutable: asPrivate } = await answers(await serve(env), {
      "X-Cache-Mode": "shared",
    });
    expect(arePages).toEqual([false, false]);
    for (const answer of Object.values(asPrivate))
      expect(cacheControl(answer)).not.toMatch(/\bpublic\b/);
    const { immutable: asShared } = await answers(await serve({ ...env, CACHE_MODE: "shared" }), {
      "X-Cache-Mode": "private",
    });
    for (const answer of Object.values(asShared))
      expect(cacheControl(answer)).toMatch(/\bpublic\b/);
  });
});

describe("the production bundle", () => {
  const bundle = "target/worker";

  test.skipIf(shell === "worker" && !existsSync(path.join(repositoryRoot, bundle, "index.js")))(
    "has no test operations",
    async () => {
      const server = await startServer({ bundle });
      onTestFinished(() => server.stop());
      const stream = await Stream.create(server.url, { body: "abc" });
      for (const operation of ["panic", "reset", "stats"]) {
        expect((await stream.get("", { "X-Test-Op": operation })).text).toBe("abc");
        expect((await stream.append("d", { "X-Test-Op": operation })).status).toBe(204);
        expect((await stream.delete()).status).toBe(204);
        expect((await stream.put({ body: "abc" })).status).toBe(201);
      }
    },
  );
});
