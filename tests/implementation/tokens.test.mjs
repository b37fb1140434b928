// Tokens that the operator's application signs, and what they permit (`docs/tokens.md`).

import { createHmac, randomBytes } from "node:crypto";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { request } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";

const secret = randomBytes(32).toString("hex");
const operator = "operator.of-all";
const text = { "Content-Type": "text/plain" };

const inSeconds = (seconds) => Math.floor(Date.now() / 1_000) + seconds;

/** Returns a token with these claims, signed as RFC 7515 describes it. */
function sign(claims, { key = secret, header = { alg: "HS256", typ: "JWT" } } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
}

const token = (scope, ...streams) => sign({ exp: inSeconds(600), scope, streams });
const bearer = (value) => ({ Authorization: `Bearer ${value}` });

let base;

/** Sends a request for a stream with a token, and returns the answer. */
const send = (method, name, value, { headers = {}, body, query = "" } = {}) =>
  request(base, `/v1/stream/${name}${query}`, {
    method,
    headers: { ...bearer(value), ...headers },
    body,
  });

const create = async (name, body = "") => {
  const created = await send("PUT", name, operator, { headers: text, body });
  expect(created.status).toBe(201);
};

describe("signed tokens", () => {
  beforeAll(async () => {
    const server = await startServer({
      env: { AUTH_TOKEN: operator, JWT_SECRET: `${"n".repeat(32)},${secret}` },
    });
    base = server.url;
    return () => server.stop();
  });

  test("each word of the scope permits its methods, and no other", async () => {
    for (const [scope, method, status] of [
      ["read", "GET", 200],
      ["read", "HEAD", 200],
      ["append", "POST", 204],
      ["create", "PUT", 200],
      ["delete", "DELETE", 204],
    ]) {
      const name = `${freshName("scope")}/a`;
      await create(name, "x");
      const own = token(scope, `${name.split("/")[0]}/*`);
      for (const each of ["GET", "HEAD", "POST", "PUT", "DELETE"]) {
        if (each === method || (scope === "read" && ["GET", "HEAD"].includes(each))) continue;
        const refused = await send(each, name, own, { headers: text, body: "y" });
        expect(refused.status, `${each} with ${scope}`).toBe(403);
        expect(refused.headers["cache-control"]).toBe("no-store");
        if (each !== "HEAD") expect(refused.text).toContain("the token does not permit");
      }
      const options = method === "POST" ? { headers: text, body: "y" } : { headers: text };
      const allowed = await send(method, name, own, options);
      expect(allowed.status, `${method} with ${scope}`).toBe(status);
    }
  });

  test("a refusal does not tell whether the stream exists, and changes nothing", async () => {
    const tenant = freshName("tenant");
    await create(`${tenant}/there`, "kept");
    const other = token("read append create delete control", "other/**");
    for (const method of ["GET", "POST", "PUT", "DELETE"]) {
      const answers = [];
      for (const name of [`${tenant}/there`, `${tenant}/missing`]) {
        const { status, text: body } = await send(method, name, other, { headers: text, body: "x" });
        answers.push([status, body]);
      }
      expect(answers[0][0], method).toBe(403);
      expect(answers[0]).toEqual(answers[1]);
    }
    const kept = await send("GET", `${tenant}/there`, operator);
    expect([kept.status, kept.text]).toEqual([200, "kept"]);
    expect((await send("GET", `${tenant}/missing`, operator)).status).toBe(404);
  });

  test("other spellings of a name do not get around the patterns", async () => {
    const tenant = freshName("tenant");
    await create(`${tenant}/a`, "mine");
    const own = token("read", `${tenant}/**`);
    const spelled = `%${tenant.charCodeAt(0).toString(16)}${tenant.slice(1)}/%61`;
    expect((await send("GET", spelled, own)).text).toBe("mine");
    for (const name of [
      `${tenant}x/a`,
      `x/../${tenant}/a`,
      `x/%2e%2e/${tenant}/a`,
      `${tenant}//a`,
      `/${tenant}/a`,
    ]) {
      const { status } = await send("GET", name, own);
      expect([400, 403], name).toContain(status);
    }
  });

  test("a token that does not hold is refused with its reason", async () => {
    const name = freshName("held");
    await create(name);
    const claims = { exp: inSeconds(600), scope: "read", streams: [name] };
    for (const [value, reason] of [
      [sign({ ...claims, exp: inSeconds(-120) }), "has expired"],
      [sign({ ...claims, exp: undefined }), "has no valid end"],
      [sign({ ...claims, nbf: inSeconds(120) }), "is not valid yet"],
      [sign(claims, { key: "x".repeat(32) }), "has a wrong signature"],
      [sign(claims, { header: { alg: "none" } }), "is not signed with plain HS256"],
      [sign({ ...claims, aud: "another" }), "has an audience"],
      [sign({ ...claims, scope: undefined }), "has no scope"],
      [sign({ ...claims, streams: [7] }), "has an invalid pattern"],
      ["a.b.c", "is not a JSON web token"],
      ["wrong", "the bearer token is missing or wrong"],
      ["", "the bearer token is missing or wrong"],
    ]) {
      const refused = await send("GET", name, value);
      expect([refused.status, refused.headers["www-authenticate"]], reason).toEqual([401, "Bearer"]);
      expect(refused.text).toContain(reason);
    }
    expect((await send("GET", name, sign(claims))).status).toBe(200);
    expect((await send("GET", name, sign(claims, { key: "n".repeat(32) }))).status).toBe(200);
  });

  test("a fork needs the right to fork its source", async () => {
    const [secretStream, own] = [freshName("secret"), freshName("own")];
    await create(secretStream, "secret");
    const headers = { "Stream-Forked-From": `/v1/stream/${secretStream}` };
    for (const allowed of [token("create fork read", own), token("create read", "**")]) {
      const stolen = await send("PUT", own, allowed, { headers });
      expect([stolen.status, stolen.text]).toEqual([
        403,
        expect.stringContaining("does not permit forking the source stream"),
      ]);
    }
    // Without a cold tier there are no forks, but the token permits one.
    const permitted = await send("PUT", own, token("create fork", "**"), { headers });
    expect([201, 501]).toContain(permitted.status);
    await send("DELETE", own, operator);
    expect((await send("GET", own, operator)).status).toBe(404);
  });

  test("wildcards do not read the registry, and `control` is a word of its own", async () => {
    const everything = token("read append create delete", "**");
    expect((await send("GET", "__registry__", everything)).status).toBe(403);
    const named = await send("GET", "__registry__", token("read", "__registry__"));
    expect([200, 404]).toContain(named.status);
    const subscription = `__ds/subscriptions/${freshName("s")}`;
    expect((await send("GET", subscription, everything)).status).toBe(403);
    expect((await send("GET", subscription, token("control"))).status).toBe(404);
    const session = (value) =>
      request(base, "/v1/sessions", { method: "POST", headers: bearer(value) });
    expect((await session(everything)).status).toBe(403);
    const made = await session(token("control"));
    expect(made.status).toBe(201);
    // The browser of the user gets the right to read this stream and nothing else.
    const name = `subscriptions/${JSON.parse(made.text).sessionId}`;
    expect((await send("GET", name, token("read", "*/*"))).status).toBe(403);
    expect((await send("GET", name, token("read", name))).status).toBe(200);
  });

  test("a live read needs the right to read", async () => {
    const name = freshName("live");
    await create(name, "x");
    for (const live of ["long-poll", "sse"]) {
      const query = `?offset=-1&live=${live}`;
      expect((await send("GET", name, token("append", name), { query })).status).toBe(403);
    }
    const query = "?offset=-1&live=long-poll";
    const read = await send("GET", name, token("read", name), { query });
    expect([read.status, read.text]).toEqual([200, "x"]);
  });
});

test("with signed tokens alone, requests without one are refused, and nothing is shared", async () => {
  const server = await startServer({ env: { JWT_SECRET: secret, CACHE_MODE: "shared" } });
  onTestFinished(() => server.stop());
  base = server.url;
  const name = freshName("alone");
  const own = token("create read", name);
  expect((await send("PUT", name, own, { headers: text, body: "x" })).status).toBe(201);
  expect((await request(base, `/v1/stream/${name}`)).status).toBe(401);
  const read = await send("GET", name, own);
  expect([read.status, read.text]).toEqual([200, "x"]);
  expect(read.headers["cache-control"]).toContain("private");
});
