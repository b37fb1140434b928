// The published Yjs server and provider, unchanged, on top of this server. The package does not
// contain its repository's tests, so these tests cover the same behaviours. With `--upstream` the
// repository's own tests run too.

import { YjsProvider } from "@durable-streams/y-durable-streams";
import { YjsServer } from "@durable-streams/y-durable-streams/server";
import { Awareness } from "y-protocols/awareness";
import * as Y from "yjs";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";

// A document is compacted after a few updates.
const compactionThreshold = 1_500;

let server;
let yjsServer;
const providers = [];

beforeAll(async () => {
  // The Yjs server logs each compaction.
  vi.spyOn(console, "log").mockImplementation(() => {});
  server = await startServer({ bundle: "target/worker" });
  yjsServer = await startYjsServer();
});
afterEach(() => {
  for (const provider of providers.splice(0)) provider.destroy();
});
afterAll(async () => {
  await yjsServer?.stop();
  await server?.stop();
});

async function startYjsServer() {
  const started = new YjsServer({ port: 0, dsServerUrl: server.url, compactionThreshold });
  await started.start();
  return started;
}

const baseUrl = (of = yjsServer) => `${of.url}/v1/yjs/test`;
const freshDocument = () => freshName("document");

/** Sends one request to a document. Returns the answer and its body. */
async function ask(docId, method, query = "", { body, base = baseUrl() } = {}) {
  const headers = body ? { "Content-Type": "application/octet-stream" } : {};
  const answer = await fetch(`${base}/docs/${docId}${query}`, {
    method,
    body,
    headers,
    redirect: "manual",
  });
  const bytes = Buffer.from(await answer.arrayBuffer());
  const code = () => JSON.parse(bytes.toString()).error.code;
  return { status: answer.status, headers: answer.headers, bytes, code };
}

async function created() {
  const docId = freshDocument();
  expect((await ask(docId, "PUT")).status).toBe(201);
  return docId;
}

/** A provider of a document, with an editor's text. */
function join(docId, { withAwareness = false, base = baseUrl(), connect = true, liveMode } = {}) {
  const doc = new Y.Doc();
  const awareness = withAwareness ? new Awareness(doc) : undefined;
  const provider = new YjsProvider({ doc, baseUrl: base, docId, awareness, connect, liveMode });
  providers.push(provider);
  return { provider, doc, awareness, text: doc.getText("content") };
}

const synced = ({ provider }) =>
  eventually("the provider is synced", () => provider.synced, { everyMs: 10 });

async function joined(docId, options) {
  const member = join(docId, options);
  await synced(member);
  return member;
}

const shows = (member, expected) =>
  eventually(
    `the text has ${expected.length} characters`,
    () => member.text.toString() === expected,
    { everyMs: 10 },
  );

async function write(member, piece, count) {
  for (let index = 0; index < count; index += 1) {
    member.text.insert(member.text.length, piece);
    await member.provider.flush();
  }
}

/** Waits for a snapshot of the document other than `than`. Returns its key. */
const snapshotOf = (docId, { than, base } = {}) =>
  eventually("a snapshot", async () => {
    const answer = await ask(docId, "GET", "?offset=snapshot", { base });
    const found = /offset=([^&]+_snapshot)/.exec(answer.headers.get("location") ?? "")?.[1];
    return found !== than && found;
  });

describe("finding a snapshot", () => {
  test("a new document has no snapshot, and is read from its start", async () => {
    const answer = await ask(await created(), "GET", "?offset=snapshot");
    expect(answer.status).toBe(307);
    expect(answer.headers.get("location")).toContain("offset=-1");
    expect(answer.headers.get("cache-control")).toBe("private, max-age=5");
  });

  test("an unknown document has no snapshot", async () => {
    const answer = await ask(freshDocument(), "GET", "?offset=snapshot");
    expect([answer.status, answer.code()]).toEqual([404, "DOCUMENT_NOT_FOUND"]);
  });

  test("an unknown snapshot gets another error than an unknown document", async () => {
    const answer = await ask(
      await created(),
      "GET",
      "?offset=9999999999999999_9999999999999999_snapshot",
    );
    expect([answer.status, answer.code()]).toEqual([404, "SNAPSHOT_NOT_FOUND"]);
  });
});

describe("documents", () => {
  test("an update of an unknown document is refused", async () => {
    expect((await ask(freshDocument(), "POST", "", { body: Uint8Array.of(1, 2, 3) })).status).toBe(
      404,
    );
  });

  test.each(["sse", "long-poll"])(
    "a client that joins gets the stored content, and then new updates (%s)",
    async (liveMode) => {
      const docId = freshDocument();
      const writer = await joined(docId, { liveMode });
      await write(writer, "First", 1);
      const reader = await joined(docId, { liveMode });
      expect(reader.text.toString()).toBe("First");
      await write(writer, " Second", 1);
      await shows(reader, "First Second");
    },
  );

  test("a name can have slashes", async () => {
    const docId = `${freshDocument()}/chapter-1/section-a`;
    await write(await joined(docId), "nested", 1);
    expect((await joined(docId)).text.toString()).toBe("nested");
  });

  test("concurrent edits converge", async () => {
    const docId = freshDocument();
    const [one, other] = [await joined(docId), await joined(docId)];
    one.text.insert(0, "AAA");
    other.text.insert(0, "BBB");
    await eventually("both have both", () => one.text.length === 6 && other.text.length === 6);
    expect(one.text.toString()).toBe(other.text.toString());
    expect([..."AAABBB"].sort()).toEqual([...one.text.toString()].sort());
  });

  test("all updates in a producer's batches arrive", async () => {
    const docId = freshDocument();
    const [writer, reader] = [await joined(docId), await joined(docId)];
    let expected = "";
    for (const burst of [0, 1, 2]) {
      for (let index = 0; index < 50; index += 1) {
        writer.text.insert(
          writer.text.length,
          String.fromCharCode(65 + ((burst * 50 + index) % 26)),
        );
      }
      expected = writer.text.toString();
      await writer.provider.flush();
      await sleep(20);
    }
    expect(expected.length).toBe(150);
    await shows(reader, expected);
  });

  test("maps and arrays arrive", async () => {
    const docId = freshDocument();
    const writer = await joined(docId);
    writer.doc.getMap("settings").set("theme", "dark");
    writer.doc.getMap("settings").set("size", 14);
    writer.doc.getArray("items").push(["one", "two", "three"]);
    await writer.provider.flush();
    const reader = await joined(docId);
    expect(reader.doc.getMap("settings").toJSON()).toEqual({ theme: "dark", size: 14 });
    expect(reader.doc.getArray("items").toJSON()).toEqual(["one", "two", "three"]);
  });
});

describe("presence", () => {
  /** Sends a message until it arrives, because messages without a listener are not stored. */
  const heard = (speaker, listener, field, value) =>
    eventually(`${field} is heard`, () => {
      const state = listener.awareness.getStates().get(speaker.awareness.clientID);
      if (JSON.stringify(state?.[field]) === JSON.stringify(value)) return true;
      speaker.awareness.setLocalStateField(field, value);
      return false;
    });

  test("both sides see each other, and see when one leaves", async () => {
    const docId = freshDocument();
    const one = await joined(docId, { withAwareness: true });
    const other = await joined(docId, { withAwareness: true });
    await heard(other, one, "user", { name: "Bob" });
    await heard(one, other, "user", { name: "Alice" });
    const { clientID } = one.awareness;
    one.provider.destroy();
    await eventually("one has left", () => !other.awareness.getStates().has(clientID));
  });

  test("the last of several quick changes arrives", async () => {
    const docId = freshDocument();
    const one = await joined(docId, { withAwareness: true });
    const other = await joined(docId, { withAwareness: true });
    await heard(one, other, "user", { name: "Alice" });
    for (let x = 0; x < 5; x += 1) one.awareness.setLocalStateField("cursor", { x });
    await eventually(
      "the last place",
      () => other.awareness.getStates().get(one.awareness.clientID)?.cursor?.x === 4,
    );
  });
});

describe("streams of presence", () => {
  const body = Uint8Array.of(1, 2, 3);

  test("are created once, and then reused", async () => {
    const docId = await created();
    expect((await ask(docId, "PUT", "?awareness=cursors")).status).toBe(201);
    expect((await ask(docId, "PUT", "?awareness=cursors")).status).toBe(200);
    expect((await ask(docId, "POST", "?awareness=cursors", { body })).status).toBe(204);
  });

  test("need their document", async () => {
    const docId = freshDocument();
    const answer = await ask(docId, "PUT", "?awareness=default");
    expect([answer.status, answer.code()]).toEqual([404, "DOCUMENT_NOT_FOUND"]);
    expect((await ask(docId, "POST", "?awareness=default", { body })).status).toBe(404);
  });

  test("are created by a message, by two at once, and again after they expired", async () => {
    const docId = await created();
    const say = () => ask(docId, "POST", "?awareness=cursors", { body });
    expect((await Promise.all([say(), say()])).map(({ status }) => status)).toEqual([204, 204]);
    const below = `${server.url}/v1/stream/yjs/test/docs/${docId}/.awareness/cursors`;
    expect((await fetch(below, { method: "DELETE" })).ok).toBe(true);
    expect((await say()).status).toBe(204);
  });

  test("with different names are separate", async () => {
    const docId = await created();
    const bytes = { cursors: Uint8Array.of(1), users: Uint8Array.of(2, 2) };
    for (const [name, body] of Object.entries(bytes))
      await ask(docId, "POST", `?awareness=${name}`, { body });
    for (const [name, body] of Object.entries(bytes)) {
      const answer = await ask(docId, "GET", `?awareness=${name}&offset=-1`);
      expect([...answer.bytes]).toEqual([...body]);
    }
  });

  test("can be deleted without the document", async () => {
    const docId = await created();
    expect((await ask(docId, "DELETE", "?awareness=default")).status).toBe(204);
    expect((await ask(docId, "DELETE", "?awareness=default")).status).toBe(404);
    expect((await ask(docId, "HEAD")).status).toBe(200);
  });
});

describe("deletion", () => {
  test("removes everything: no method finds the document, and a new one is empty", async () => {
    const docId = await created();
    await write(await joined(docId), "old", 1);
    expect((await ask(docId, "DELETE")).status).toBe(204);
    for (const provider of providers.splice(0)) provider.destroy();
    const body = Uint8Array.of(1, 2, 3);
    expect((await ask(docId, "GET", "?offset=-1")).status).toBe(404);
    expect((await ask(docId, "GET", "?offset=snapshot")).status).toBe(404);
    expect((await ask(docId, "HEAD")).status).toBe(404);
    expect((await ask(docId, "POST", "", { body })).status).toBe(404);
    expect((await ask(docId, "PUT", "?awareness=default")).status).toBe(404);
    expect((await ask(docId, "POST", "?awareness=default", { body })).status).toBe(404);
    expect((await ask(docId, "DELETE")).status).toBe(404);
    expect((await ask(docId, "PUT")).status).toBe(201);
    expect((await joined(docId)).text.toString()).toBe("");
  });

  test("of an unknown document is an error", async () => {
    const answer = await ask(freshDocument(), "DELETE");
    expect([answer.status, answer.code()]).toEqual([404, "DOCUMENT_NOT_FOUND"]);
  });

  test("also deletes snapshots and all presence streams", async () => {
    const docId = await created();
    for (const name of ["cursors", "users"]) await ask(docId, "PUT", `?awareness=${name}`);
    await write(await joined(docId), "x".repeat(200), 10);
    const snapshot = await snapshotOf(docId);
    expect((await ask(docId, "GET", `?offset=${snapshot}`)).status).toBe(200);
    for (const provider of providers.splice(0)) provider.destroy();
    expect((await ask(docId, "DELETE")).status).toBe(204);
    expect((await ask(docId, "GET", `?offset=${snapshot}`)).status).toBe(404);
    for (const name of ["default", "cursors", "users"]) {
      expect((await ask(docId, "HEAD", `?awareness=${name}`)).status).toBe(404);
    }
  });
});

describe("compaction", () => {
  test("does not disturb concurrent writers and readers", async () => {
    const docId = freshDocument();
    const [writer, reader] = [await joined(docId), await joined(docId)];
    await write(writer, "X".repeat(200), 10);
    await snapshotOf(docId);
    await write(writer, "after", 1);
    await shows(reader, `${"X".repeat(2_000)}after`);
    expect((await joined(docId)).text.toString()).toBe(`${"X".repeat(2_000)}after`);
  });

  test("says where updates continue after the snapshot", async () => {
    const docId = freshDocument();
    const writer = await joined(docId);
    await write(writer, "X".repeat(200), 10);
    const key = await snapshotOf(docId);
    const snapshot = await ask(docId, "GET", `?offset=${key}`);
    const next = snapshot.headers.get("stream-next-offset");
    // The Yjs server reads what follows the snapshot from its offset plus one.
    const [segment, position] = key.replace("_snapshot", "").split("_");
    expect(next).toBe(`${segment}_${String(Number(position) + 1).padStart(position.length, "0")}`);
    await write(writer, "after", 1);
    const updates = await ask(docId, "GET", `?offset=${next}`);
    expect(updates.status).toBe(200);
    const doc = new Y.Doc();
    Y.applyUpdate(doc, snapshot.bytes);
    await eventually(
      "the update that follows",
      async () => (await ask(docId, "GET", `?offset=${next}`)).bytes.length > 0,
    );
  });

  test("can follow another, each from the snapshot before", async () => {
    const docId = freshDocument();
    const writer = await joined(docId);
    let than;
    for (const letter of "ABC") {
      await write(writer, letter.repeat(200), 10);
      than = await snapshotOf(docId, { than });
    }
    const reader = await joined(docId);
    expect(reader.text.toString()).toBe(
      ["A", "B", "C"].map((letter) => letter.repeat(2_000)).join(""),
    );
  });

  test("deletes the old snapshot, and a client that joins takes the new one", async () => {
    const docId = freshDocument();
    const writer = await joined(docId);
    await write(writer, "X".repeat(200), 10);
    const first = await snapshotOf(docId);
    await write(writer, "Y".repeat(200), 10);
    await snapshotOf(docId, { than: first });
    await eventually(
      "the first is gone",
      async () => (await ask(docId, "GET", `?offset=${first}`)).status === 404,
    );
    expect((await joined(docId)).text.toString()).toBe(writer.text.toString());
  });

  test("runs one at a time, and keeps concurrent updates", async () => {
    const docId = freshDocument();
    const writer = await joined(docId);
    const { compactor } = yjsServer;
    const perform = compactor.performCompaction.bind(compactor);
    let release;
    const released = new Promise((resolve) => {
      release = resolve;
    });
    const spy = vi.spyOn(compactor, "performCompaction").mockImplementation(async (...what) => {
      await released;
      return perform(...what);
    });
    try {
      await write(writer, "X".repeat(300), 6);
      await eventually("a compaction has begun", () => spy.mock.calls.length > 0);
      await write(writer, "Y".repeat(50), 3);
      release();
      await snapshotOf(docId);
      expect(spy).toHaveBeenCalledTimes(1);
    } finally {
      release();
      spy.mockRestore();
    }
    await shows(await joined(docId), writer.text.toString());
  });

  test("lets a client that was away resume from before the snapshot", async () => {
    const docId = freshDocument();
    const [writer, reader] = [await joined(docId), await joined(docId)];
    await write(writer, "before", 1);
    await shows(reader, "before");
    const early = (await ask(docId, "GET", "?offset=-1")).headers.get("stream-next-offset");
    await reader.provider.disconnect();
    await write(writer, "X".repeat(200), 10);
    await snapshotOf(docId);
    await write(writer, "after", 1);
    expect((await ask(docId, "GET", `?offset=${early}`)).bytes.length).toBeGreaterThan(2_000);
    await reader.provider.connect();
    await shows(reader, writer.text.toString());
  });

  test("lets a restarted Yjs server find the document and the snapshot", async () => {
    const docId = freshDocument();
    const first = await startYjsServer();
    const writer = await joined(docId, { base: baseUrl(first) });
    await write(writer, "R".repeat(200), 10);
    await snapshotOf(docId, { base: baseUrl(first) });
    for (const provider of providers.splice(0)) provider.destroy();
    await first.stop();
    const second = await startYjsServer();
    try {
      expect((await joined(docId, { base: baseUrl(second) })).text.toString()).toBe(
        "R".repeat(2_000),
      );
    } finally {
      for (const provider of providers.splice(0)) provider.destroy();
      await second.stop();
    }
  });
});

describe("failures", () => {
  test("a provider without a server reports an error", async () => {
    const { provider } = join(freshDocument(), { base: "http://127.0.0.1:1", connect: false });
    const errors = [];
    provider.on("error", (error) => errors.push(error));
    await provider.connect();
    await eventually("an error", () => errors.length > 0);
    expect(errors[0]).toBeInstanceOf(Error);
  });

  test("a provider can disconnect at any time and come back", async () => {
    const member = join(freshDocument(), { connect: false });
    const connecting = member.provider.connect();
    member.provider.disconnect();
    await connecting;
    expect(member.provider.connected).toBe(false);
    await member.provider.connect();
    await synced(member);
    await write(member, "before", 1);
    await member.provider.disconnect();
    expect([member.provider.connected, member.provider.synced]).toEqual([false, false]);
    await member.provider.connect();
    await synced(member);
    expect([member.provider.connected, member.text.toString()]).toEqual([true, "before"]);
  });

  test("methods and paths that do not exist are refused", async () => {
    for (const query of ["", "?awareness=default"]) {
      const answer = await ask(freshDocument(), "PATCH", query);
      expect([answer.status, answer.code()]).toEqual([405, "INVALID_REQUEST"]);
    }
    for (const path of ["a%2F..%2Fb", "a%2F.%2Fb"]) {
      expect((await ask(path, "GET", "?offset=snapshot")).status).toBe(400);
    }
  });
});
