// A proxy between the server under test and its R2 and D1. `cold-tier.mjs` controls it.

import { WorkerEntrypoint } from "cloudflare:workers";

let faults = {};
const counts = {};

function count(kind, bytes = 0) {
  counts[kind] ??= { operations: 0, bytes: 0, failed: 0 };
  counts[kind].operations += 1;
  counts[kind].bytes += bytes;
}

const refused = () =>
  new Response("disturbed", {
    status: 500,
    headers: {
      "CF-R2-Error": JSON.stringify({ version: 0, v4code: 10001, message: "disturbed by a test" }),
    },
  });

async function disturbed(kind, act) {
  const { fail = 0, lie = 0, delayMs = 0 } = faults[kind] ?? {};
  const chance = Math.random();
  if (delayMs > 0) await scheduler.wait(Math.random() * delayMs);
  if (chance < fail) {
    counts[kind].failed += 1;
    return refused();
  }
  const response = await act();
  if (chance < fail + lie) {
    counts[kind].failed += 1;
    await response.body?.cancel();
    return refused();
  }
  return response;
}

/** Reads the metadata of a request, which precedes the body of each operation that writes. */
async function metadataOf(request) {
  const size = Number(request.headers.get("CF-R2-Metadata-Size"));
  const length = Number(request.headers.get("Content-Length"));
  const reader = request.body.getReader({ mode: "byob" });
  const { value } = await reader.readAtLeast(size, new Uint8Array(size));
  reader.releaseLock();
  const metadata = JSON.parse(new TextDecoder().decode(value));
  const again = () => {
    const { readable, writable } = new FixedLengthStream(length);
    const write = async () => {
      const writer = writable.getWriter();
      await writer.write(value);
      writer.releaseLock();
      await request.body.pipeTo(writable);
    };
    return [new Request(request, { body: readable }), write()];
  };
  return { metadata, bytes: length - size, again };
}

export class Bucket extends WorkerEntrypoint {
  async fetch(request) {
    if (request.method === "GET") {
      const { method, range } = JSON.parse(request.headers.get("CF-R2-Request"));
      count(method, method === "get" ? Number(range?.length ?? 0) : 0);
      return disturbed(method, () => this.env.R2.fetch(request));
    }
    const { metadata, bytes, again } = await metadataOf(request);
    count(metadata.method, metadata.method === "put" ? bytes : 0);
    let consumed = false;
    const response = await disturbed(metadata.method, async () => {
      consumed = true;
      const [repeated, written] = again();
      const [response] = await Promise.all([this.env.R2.fetch(repeated), written]);
      return response;
    });
    // An unread body would block its sender.
    if (!consumed) await request.body.pipeTo(new WritableStream());
    return response;
  }
}

export class Index extends WorkerEntrypoint {
  fetch(request) {
    count("index");
    return disturbed("index", () => this.env.D1.fetch(request));
  }
}

async function objects(bucket) {
  const found = [];
  let cursor;
  do {
    const page = await bucket.list({ cursor });
    found.push(...page.objects.map(({ key, size }) => ({ key, size })));
    cursor = page.truncated ? page.cursor : undefined;
  } while (cursor);
  return found;
}

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const key = url.searchParams.get("key");
    switch (`${request.method} ${url.pathname}`) {
      case "GET /objects":
        return Response.json(await objects(env.BUCKET));
      case "GET /object": {
        const object = await env.BUCKET.get(key);
        return object === null ? new Response("none", { status: 404 }) : new Response(object.body);
      }
      case "PUT /object":
        await env.BUCKET.put(key, await request.arrayBuffer());
        return new Response();
      case "DELETE /object":
        await env.BUCKET.delete(key);
        return new Response();
      case "POST /query": {
        const { sql, values } = await request.json();
        const { results } = await env.DATABASE.prepare(sql)
          .bind(...values)
          .all();
        return Response.json(results);
      }
      case "PUT /faults":
        faults = await request.json();
        return new Response();
      case "GET /counts":
        return Response.json(counts);
      default:
        return new Response("no such route", { status: 404 });
    }
  },
};
