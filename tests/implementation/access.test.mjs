// Cloudflare Access lets operators use the admin API (docs/admin-api.md).

import { readFile } from "node:fs/promises";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { Key, startTeam } from "../harness/access.mjs";
import { request } from "../harness/http.mjs";
import { repositoryRoot, shell, startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";

/** Starts a team, and a server that trusts it. */
async function serve(env = {}) {
  const team = await startTeam();
  onTestFinished(() => team.stop());
  const server = await startServer({
    env: {
      ACCESS_TEAM: team.name,
      ACCESS_AUD: team.audience,
      TEST_ACCESS_KEYS_URL: team.url,
      ...env,
    },
  });
  onTestFinished(() => server.stop());
  /** @param {Record<string, string>} headers */
  const ask = (headers, path = "/health", method = "GET") =>
    request(server.url, `/admin/api${path}`, { method, headers });
  const status = async (token) => (await ask({ "Cf-Access-Jwt-Assertion": token })).status;
  return { team, ask, status };
}

function expectDenied(answer, reason) {
  expect(answer.status, answer.text).toBe(401);
  expect(answer.headers["cache-control"]).toBe("no-store");
  expect(answer.json().error).toEqual({
    code: "access_denied",
    message: `the token of Cloudflare Access ${reason}`,
  });
}

describe.runIf(shell === "worker")("on Cloudflare", () => {
  test("a valid token opens the API, from the header or from the cookie", async () => {
    const { team, ask } = await serve();
    const token = team.keys[0].sign(team.claims());
    const single = team.keys[0].sign(team.claims({ aud: team.audience, nbf: undefined }));
    for (const headers of [
      { "Cf-Access-Jwt-Assertion": token },
      { "Cf-Access-Jwt-Assertion": single },
      { Cookie: `theme=dark; CF_Authorization=${token}` },
    ]) {
      expect((await ask(headers)).status).toBe(200);
    }
    const name = freshName();
    const headers = { Cookie: `CF_Authorization=${token}`, "Content-Type": "text/plain" };
    expect((await ask(headers, `/streams/${name}/create`, "POST")).status).toBe(201);
    const foreign = { ...headers, Origin: "https://evil.example" };
    expect((await ask(foreign, `/streams/${name}/delete`, "POST")).status).toBe(403);
    expect((await ask(headers, `/streams/${name}/detail`)).status).toBe(200);
    expect(team.fetches).toBe(1);
  });

  test("every token that does not hold is refused with a reason", async () => {
    const { team, ask } = await serve();
    const [key] = team.keys;
    const now = Math.floor(Date.now() / 1_000);
    const stranger = new Key("first");
    const valid = key.sign(team.claims());
    const [head, claims, signature] = valid.split(".");
    const altered = Buffer.from(JSON.stringify(team.claims({ email: "other@example.com" })));
    for (const [token, reason] of [
      [key.sign(team.claims({ iss: "https://evil.cloudflareaccess.com" })), "is of another team"],
      [key.sign(team.claims({ aud: ["other"] })), "is for another application"],
      [key.sign(team.claims({ exp: now - 90 })), "has expired"],
      [key.sign(team.claims({ exp: undefined })), "has no valid end"],
      [key.sign(team.claims({ nbf: now + 90 })), "is not valid yet"],
      [key.sign(team.claims(), { alg: "none" }), "is not signed with plain RS256"],
      [key.sign(team.claims(), { kid: undefined }), "names no key"],
      [stranger.sign(team.claims()), "has a wrong signature"],
      [`${head}.${altered.toString("base64url")}.${signature}`, "has a wrong signature"],
      [`${head}.${claims}.AAAA`, "has a wrong signature"],
      [`${head}.${signature}`, "is not a JSON web token"],
      ["", "is not a JSON web token"],
      ["x".repeat(20_000).slice(0, 15_000), "is not a JSON web token"],
    ]) {
      expectDenied(await ask({ "Cf-Access-Jwt-Assertion": token }), reason);
    }
    expectDenied(await ask({}), "is missing");
    expectDenied(await ask({ Authorization: "Bearer anything" }), "is missing");
    expectDenied(await ask({ Cookie: "CF_Authorization=" }), "is not a JSON web token");
  });

  test("a key that is new is fetched, at a bounded rate", async () => {
    const { team, ask, status } = await serve();
    expect(await status(team.keys[0].sign(team.claims()))).toBe(200);
    const next = new Key("second");
    team.keys.push(next);
    expect(await status(next.sign(team.claims()))).toBe(200);
    expect(team.fetches).toBe(2);
    const unknown = new Key("unknown").sign(team.claims());
    const many = Array.from({ length: 60 }, () => ask({ "Cf-Access-Jwt-Assertion": unknown }));
    for (const answer of await Promise.all(many)) {
      expectDenied(answer, "is signed with a key that its team does not have");
    }
    expect(team.fetches).toBeLessThanOrEqual(20);
    expect(await status(team.keys[0].sign(team.claims()))).toBe(200);
  });

  test("while the keys cannot be fetched the API answers 503", async () => {
    const { team, ask, status } = await serve();
    team.isDown = true;
    const token = team.keys[0].sign(team.claims());
    const answer = await ask({ "Cf-Access-Jwt-Assertion": token });
    expect(answer.status).toBe(503);
    expect(answer.headers["retry-after"]).toBe("1");
    expect(answer.headers["cache-control"]).toBe("no-store");
    team.isDown = false;
    expect(await status(token)).toBe(200);
  });

  test("ADMIN_TOKEN opens the API beside Access", async () => {
    const { team, ask } = await serve({ ADMIN_TOKEN: "secret", ADMIN_OPEN: "1" });
    const assertion = { "Cf-Access-Jwt-Assertion": team.keys[0].sign(team.claims()) };
    expect((await ask(assertion)).status).toBe(200);
    expect((await ask({ Authorization: "Bearer secret" })).status).toBe(200);
    expect((await ask({ Authorization: "Bearer wrong", ...assertion })).status).toBe(401);
    expect((await ask({})).status).toBe(401);
  });

  test("only the bundle of the tests has another place for what is on the internet", async () => {
    const has = async (bundle) => {
      const code = await readFile(path.join(repositoryRoot, "target", bundle, "index_bg.wasm"));
      return ["TEST_ACCESS_KEYS_URL", "TEST_ANALYTICS_URL"].map((name) => code.includes(name));
    };
    expect(await has("worker-test")).toEqual([true, true]);
    expect(await has("worker")).toEqual([false, false]);
  });

  test.each([
    [{ ACCESS_TEAM: "example" }, "ACCESS_AUD"],
    [{ ACCESS_AUD: "4714c1" }, "ACCESS_TEAM"],
    [{ ACCESS_TEAM: "example.cloudflareaccess.com", ACCESS_AUD: "4714c1" }, "ACCESS_TEAM"],
  ])("%o is refused by name", async (env, name) => {
    const server = await startServer({ env });
    onTestFinished(() => server.stop());
    const answer = await request(server.url, "/v1/stream/a");
    expect(answer.status).toBe(500);
    expect(answer.json().error.message).toMatch(new RegExp(`^${name} must be`));
  });
});

describe.runIf(shell === "server")("on one machine", () => {
  test.each(["ACCESS_TEAM", "ACCESS_AUD"])("%s is refused, which protects nothing", (name) =>
    expect(startServer({ env: { [name]: "example" } })).rejects.toThrow(
      `exit code 1, signal null\nerror: ${name} must be empty`,
    ),
  );
});
