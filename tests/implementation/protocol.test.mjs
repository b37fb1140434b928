// The protocol clause by clause. Each row names its section of PROTOCOL.md, and its rule in one
// line.

import { afterAll, beforeAll, describe, test } from "vitest";
import { foreignUrl, startOrUse } from "../harness/target.mjs";
import { rows as closing } from "./protocol/closing.mjs";
import { rows as create } from "./protocol/create.mjs";
import { rows as append } from "./protocol/append.mjs";
import { rows as producers } from "./protocol/producers.mjs";
import { rows as preconditions } from "./protocol/preconditions.mjs";
import { rows as metadata } from "./protocol/metadata.mjs";
import { rows as catchup } from "./protocol/catchup.mjs";
import { rows as longpoll } from "./protocol/longpoll.mjs";
import { rows as sse } from "./protocol/sse.mjs";
import { rows as offsets } from "./protocol/offsets.mjs";
import { rows as json } from "./protocol/json.mjs";
import { rows as caching } from "./protocol/caching.mjs";
import { rows as expiry } from "./protocol/expiry.mjs";
import { rows as transport } from "./protocol/transport.mjs";

const sseAgeMs = 6_000;

const groups = {
  "stream closure": closing,
  "creating a stream": create,
  appending: append,
  "idempotent producers": producers,
  "conditional writes": preconditions,
  "metadata and deletion": metadata,
  "catch-up reads": catchup,
  "long-poll reads": longpoll,
  "SSE reads": sse,
  offsets,
  "JSON mode": json,
  caching,
  expiry,
  "names, methods and headers": transport,
};

const own = !foreignUrl;

let server;

beforeAll(async () => {
  server = await startOrUse({
    env: {
      LONG_POLL_TIMEOUT_MS: 3_000,
      MAX_CHUNK_BYTES: 65_536,
      SSE_MAX_AGE_MS: sseAgeMs,
      SSE_HEARTBEAT_MS: 1_500,
    },
  });
});

afterAll(() => server?.stop());

for (const [title, rows] of Object.entries(groups)) {
  describe(title, () => {
    for (const row of rows) {
      const run = row.concurrent ? test.concurrent : test;
      run.skipIf(row.only === "own" && !own)(`${row.section} ${row.clause}`, () =>
        row.check({ base: server.url, own, sseAgeMs }),
      );
    }
  });
}
