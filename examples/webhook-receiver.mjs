// Receives the webhooks of a subscription, checks their signatures, and prints new events.
//
//   node examples/webhook-receiver.mjs http://127.0.0.1:4437
//
// If the server has an `AUTH_TOKEN`, give it in the variable of that name. `docs/subscriptions.md`
// says how to create the subscription.

import { createPublicKey, verify } from "node:crypto";
import http from "node:http";

const server = process.argv[2] ?? "http://127.0.0.1:4437";
const token = process.env.AUTH_TOKEN;
const headers = token ? { Authorization: `Bearer ${token}` } : {};

async function isSigned(header, body) {
  const parts = Object.fromEntries(header.split(",").map((part) => part.split(/=(.*)/s, 2)));
  // Without a time this is false, too.
  const isRecent = Math.abs(Date.now() / 1_000 - Number(parts.t)) <= 300;
  const { keys } = await (await fetch(`${server}/v1/stream/__ds/jwks.json`)).json();
  const jwk = keys.find(({ kid }) => kid === parts.kid);
  if (!isRecent || jwk === undefined || parts.ed25519 === undefined) return false;
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const signature = Buffer.from(parts.ed25519, "base64url");
  return verify(null, Buffer.from(`${parts.t}.${body}`), key, signature);
}

async function readBehind({ path, acked_offset }) {
  const answer = await fetch(`${server}/v1/stream/${path}?offset=${acked_offset}`, { headers });
  if (!answer.ok) throw new Error(`${path} cannot be read: ${answer.status}`);
  console.log(path, await answer.text());
}

async function receive(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces).toString();
  if (!(await isSigned(request.headers["webhook-signature"] ?? "", body))) {
    response.writeHead(401).end();
    return;
  }
  for (const stream of JSON.parse(body).streams) {
    if (stream.has_pending) await readBehind(stream);
  }
  // All tails of this wake are processed. Newer events come with the next one.
  response.writeHead(200, { "Content-Type": "application/json" }).end('{"done":true}');
}

http
  .createServer((request, response) =>
    receive(request, response).catch((error) => {
      // The server delivers the wake again.
      console.error(error);
      response.writeHead(500).end();
    }),
  )
  .listen(8080, "127.0.0.1", () => console.log("waiting for webhooks on http://127.0.0.1:8080"));
