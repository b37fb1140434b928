// Rows of earlier code are upgraded by the first request, and those of later code are answered 503
// and left alone. For the other shell, `shells/server/tests/schema.rs` tests the same, and
// `shells/server/tests/reshard.rs` the import.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { repositoryRoot, shell, startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const unnumbered = path.join(repositoryRoot, "shells/sqlite/tests/unnumbered");

let server;

beforeAll(async () => {
  if (shell === "worker") server = await startServer();
});
afterAll(() => server?.stop());

/** Executes statements on the object's database, and resets the object. */
async function execute(stream, statements) {
  const answer = await stream.request("GET", { headers: { "X-Test-Op": "execute", "X-Test-Statements": statements } });
  expect(answer.status, answer.text).toBe(204);
  await reset(stream);
}

async function reset(stream) {
  await stream.request("GET", { headers: { "X-Test-Op": "reset" } }).catch(() => {});
}

/** A stream whose object has the tables of a file of the fixture. */
async function fixture(file, name) {
  const stream = new Stream(server.url, name, "application/json");
  const tables = await readFile(path.join(unnumbered, file), "utf8");
  await execute(stream, tables.replaceAll("'chat'", `'${name}'`).replaceAll("\n", " "));
  return stream;
}

describe.runIf(shell === "worker")("rows without a schema number", () => {
  // Four rows for the columns of the stream's table and its number, one for the column of the table
  // of segments, two for those of the hot tables, four for the outbox, which is made anew, and the
  // stream's row twice: its alarm is set anew, and the directory learns of the stream.
  test("are upgraded once, by thirteen rows, and keep everything", async () => {
    const stream = await fixture("chat.sql", "chat-upgraded");
    const page = await stream.get();
    expect(page.json()).toEqual([1, 2, 3, 4, 5, 6].map((message) => ({ message })));
    await eventually(
      "the directory has the stream",
      async () => (await stream.statistics()).rows_written >= 13,
    );
    expect((await stream.statistics()).rows_written).toBe(13);
    expect((await stream.append("{\"message\":7}", producer("p0", 3, 2))).status).toBe(204);
    expect((await stream.append("{\"message\":7}", producer("p0", 3, 3))).status).toBe(200);
    expect((await stream.statistics()).last_turn_rows_written).toBe(1);
    await reset(stream);
    expect((await stream.get()).json()).toHaveLength(7);
    // At most the stream's row, for the alarm.
    expect((await stream.statistics()).rows_written).toBeLessThanOrEqual(1);
  });

  test("are upgraded where only the outbox is left", async () => {
    const stream = await fixture("gone.sql", "gone-upgraded");
    expect((await stream.get()).status).toBe(404);
    expect((await stream.put()).status).toBe(201);
  });
});

describe.runIf(shell === "worker")("rows of later code", () => {
  const later = {
    stream: [
      "ALTER TABLE stream ADD COLUMN schema INTEGER NOT NULL DEFAULT 999",
      "ALTER TABLE stream DROP COLUMN schema",
    ],
    outbox: [
      "CREATE TABLE outbox (schema INTEGER NOT NULL); INSERT INTO outbox VALUES (999)",
      "DROP TABLE outbox",
    ],
    control: [
      "CREATE TABLE control (schema INTEGER NOT NULL); INSERT INTO control VALUES (999)",
      "DROP TABLE control",
    ],
  };

  test.each(Object.keys(later))("in the table %s are answered 503, are not changed, and the reason is logged", async (table) => {
    const name = `chat-later-${table}`;
    const stream = await fixture("chat.sql", name);
    const [statements, back] = later[table];
    await execute(stream, statements);
    for (const act of ["get", "put", "append", "delete"]) {
      const answer = await stream[act](act === "append" ? "{}" : undefined);
      expect(answer.status, act).toBe(503);
      expect(answer.headers["cache-control"], act).toBe("no-store");
      expect((await stream.statistics()).rows_written, act).toBe(0);
    }
    expect(server.output()).toContain("its schema 999 is newer than");
    await execute(stream, back);
    expect((await stream.get()).json()).toHaveLength(6);
  });
});
