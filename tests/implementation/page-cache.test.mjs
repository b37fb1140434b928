// Pages that the server for one machine keeps in memory.

import { describe, expect, onTestFinished, test } from "vitest";
import { request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, Stream } from "../harness/stream.mjs";

async function serve(env = {}) {
  const server = await startServer({ env });
  onTestFinished(() => server.stop());
  return server;
}

async function hits({ url }) {
  const { text } = await request(url, "/metrics");
  return Number(text.match(/^durable_streams_page_cache_hits_total (\d+)$/m)[1]);
}

/** Reads a page that is in memory already, and returns its answer. */
async function readKept(server, stream, query) {
  const before = await hits(server);
  const answer = await stream.get(query);
  expect(answer.status).toBe(200);
  expect(await hits(server)).toBe(before + 1);
  return answer;
}

describe.runIf(shell === "server")("pages in memory", () => {
  test.for([
    ["application/json", ['{"a": 1}', "[2,3]"], '[{"a": 1},2,3]'],
    ["text/plain", ["é", "中"], "é中"],
    ["application/octet-stream", ["\u0001", "two"], "\u0001two"],
  ])("are the same as pages of rows: %s", async ([contentType, appends, content]) => {
    const server = await serve();
    const stream = new Stream(server.url, freshName(), contentType);
    await stream.put();
    const first = await stream.append(appends[0]);
    await stream.append(appends[1]);
    for (const query of ["?offset=-1", `?offset=${first.offset}`, "?offset=-1&live=long-poll"]) {
      const before = await hits(server);
      const ofRows = await stream.get(query);
      const kept = await readKept(server, stream, query);
      expect(kept.text).toBe(ofRows.text);
      expect(kept.headers.etag).toBe(ofRows.headers.etag);
      expect(kept.headers["cache-control"]).toBe(ofRows.headers["cache-control"]);
      // A poll that begins before the tail gets the page that a catch-up read gets.
      expect(await hits(server)).toBe(before + (query.includes("live") ? 2 : 1));
      if (query.startsWith("?offset=-1")) expect(kept.text).toBe(content);
    }
  });

  test("change with the tail, the end and the incarnation of their stream", async () => {
    const server = await serve();
    const stream = new Stream(server.url, freshName(), "text/plain");
    const expectKept = async (text, isClosed = false) => {
      expect((await stream.read("-1")).text).toBe(text);
      const kept = await readKept(server, stream, "?offset=-1");
      expect(kept.text).toBe(text);
      expect(kept.headers["stream-closed"]).toBe(isClosed ? "true" : undefined);
    };
    await stream.put();
    await stream.append("one");
    await expectKept("one");
    await stream.append("two");
    await expectKept("onetwo");
    await stream.close();
    await expectKept("onetwo", true);
    await stream.delete();
    expect((await stream.read("-1")).status).toBe(404);
    await stream.put();
    await stream.append("sixsix");
    await expectKept("sixsix");
  });

  test("of one stream are not those of another", async () => {
    const server = await serve();
    for (const text of ["a", "b", "c"]) {
      const stream = new Stream(server.url, freshName(), "text/plain");
      await stream.put();
      await stream.append(text);
      expect((await stream.read("-1")).text).toBe(text);
      expect((await readKept(server, stream, "?offset=-1")).text).toBe(text);
    }
  });

  test("are not kept if there is no room for them", async () => {
    const server = await serve({ PAGE_CACHE_BYTES_MAX: 0 });
    const stream = new Stream(server.url, freshName(), "text/plain");
    await stream.put();
    await stream.append("content");
    for (let read = 0; read < 3; read += 1) {
      expect((await stream.read("-1")).text).toBe("content");
    }
    expect(await hits(server)).toBe(0);
  });
});
