// Measures the memory of an isolate that one large append takes:
// `node tests/performance/body.mjs [BUNDLE..]`.
//
// Each bundle (a directory, `target/worker` by default) runs in a new workerd for each row of the
// table. The figure is the peak growth of the process, as a multiple of the body's size. To compare
// with an earlier commit, pass its bundle as well.

import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { request } from "../harness/http.mjs";
import { startWorker } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const bundles = process.argv.slice(2);
if (bundles.length === 0) bundles.push("target/worker");
const MiB = 1 << 20;
const allowed = 2.2;

const bodies = {
  "16 MiB of bytes": { contentType: "application/octet-stream", body: Buffer.alloc(16 * MiB, 7) },
  "16 MiB of bytes, chunked": {
    contentType: "application/octet-stream",
    body: Array.from({ length: 256 }, () => Buffer.alloc(64 << 10, 7)),
  },
  "16 MiB of text": { contentType: "text/plain", body: Buffer.from("é".repeat(8 * MiB)) },
  "one message of 16 MiB": {
    contentType: "application/json",
    body: Buffer.from(`"${"x".repeat(16 * MiB - 2)}"`),
  },
  "messages of 1 KB": {
    contentType: "application/json",
    body: Buffer.from(JSON.stringify(Array.from({ length: 16_000 }, () => "x".repeat(1_000)))),
  },
  "messages of one digit": {
    contentType: "application/json",
    body: Buffer.from(
      `[${Array(8 * MiB - 1)
        .fill("1")
        .join(",")}]`,
    ),
  },
};

async function memory(pid) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const bytes = (field) =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)[1]) * 1_024;
  return { now: bytes("VmRSS"), highest: bytes("VmHWM") };
}

async function measure(bundle, { contentType, body }) {
  const worker = await startWorker({ bundle: path.resolve(bundle) });
  try {
    const warm = await Stream.create(worker.url, { contentType });
    const small = contentType === "application/json" ? '"x"' : "x";
    for (let count = 0; count < 200; count += 1) await warm.append(small);
    const stream = await Stream.create(worker.url, { contentType });
    const { now } = await memory(worker.pid);
    // Resets the peak.
    await writeFile(`/proc/${worker.pid}/clear_refs`, "5");
    const began = performance.now();
    const answer = await request(worker.url, stream.path, {
      method: "POST",
      headers: { "Content-Type": contentType },
      body,
    });
    const ms = performance.now() - began;
    if (answer.status !== 204) return { status: answer.status };
    return { grown: (await memory(worker.pid)).highest - now, ms };
  } finally {
    await worker.kill();
  }
}

const lengthOf = (body) =>
  Array.isArray(body) ? body.reduce((sum, { length }) => sum + length, 0) : body.length;
let failed = false;
for (const bundle of bundles) {
  console.log(bundle);
  for (const [name, what] of Object.entries(bodies)) {
    const { grown, ms, status } = await measure(bundle, what);
    if (status !== undefined) {
      console.log(`  ${name.padEnd(28)} answered ${status}`);
      failed ||= bundle === bundles.at(-1);
      continue;
    }
    const times = grown / lengthOf(what.body);
    if (times > allowed && bundle === bundles.at(-1)) failed = true;
    console.log(
      `  ${name.padEnd(28)} ${(grown / MiB).toFixed(1).padStart(6)} MiB, ${times.toFixed(2)} times the body, in ${ms.toFixed(0)} ms`,
    );
  }
}
console.log(
  failed ? `failed: ${bundles.at(-1)} takes more than ${allowed} times a body` : "passed",
);
process.exitCode = failed ? 1 : 0;
