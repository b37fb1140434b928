// The registry spread over three streams: which events each gets, and who may write there.

import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { freshName, Stream } from "../harness/stream.mjs";

const shards = ["__registry__", "__registry__/1", "__registry__/2"];
const patience = { timeoutMs: 60_000 };
let server;

beforeAll(async () => {
  server = await startServer({ env: { REGISTRY_SHARDS: 3 } });
});
afterAll(() => server.stop());

/** The events of each shard. A shard without events does not exist. */
const events = () =>
  Promise.all(
    shards.map(async (name) => {
      const shard = new Stream(server.url, name, "application/json");
      return (await shard.head()).status === 404 ? [] : shard.messages();
    }),
  );

test("each of three shards gets some streams, and all of their events in order", async () => {
  const streams = Array.from({ length: 24 }, () => new Stream(server.url, freshName("sharded")));
  for (const operation of ["put", "delete", "put"])
    await Promise.all(streams.map((stream) => stream[operation]()));
  const shards = await eventually(
    "all events",
    async () => {
      const all = await events();
      return all.flat().length >= 3 * streams.length && all;
    },
    patience,
  );
  for (const { name } of streams) {
    const operations = shards.map((all) =>
      all.filter(({ key }) => key === name).map(({ headers }) => headers.operation),
    );
    expect(
      operations.filter((each) => each.length > 0),
      name,
    ).toEqual([["insert", "delete", "insert"]]);
  }
  expect(shards.every((all) => all.length > 0)).toBe(true);
  expect(shards.flat()).toHaveLength(3 * streams.length);
});

test("clients can read every shard and write to none, even if it is unused", async () => {
  await eventually("an event in every shard", async () => {
    await Stream.create(server.url);
    return (await events()).every((all) => all.length > 0);
  });
  for (const name of shards) {
    const reader = await new Stream(server.url, name, "application/json").events("-1");
    await reader.upToDate();
    reader.close();
  }
  for (const name of [...shards, "%5F_registry__/2", "__registry__/7", "__registry__/"]) {
    const shard = new Stream(server.url, name, "application/json");
    for (const answer of [
      await shard.put(),
      await shard.append("{}"),
      await shard.close(),
      await shard.delete(),
    ]) {
      expect(answer.status, name).toBe(403);
    }
  }
});
