// One server for the whole suite: the one that CONFORMANCE_TEST_URL names, or one that is started
// here on the bundle for deployment. With CONFORMANCE_COLD=1 it has cold storage and tiny segments.
// The server for one machine always has its default directory.

import { shell, startServer } from "../harness/server.mjs";

const settings = [
  "AUTH_TOKEN",
  "CACHE_MODE",
  "DEBUG_TIMING",
  "PUBLIC_URL",
  "CORS_ORIGINS",
  "MAX_APPEND_BYTES",
  "MAX_CHUNK_BYTES",
  "LONG_POLL_TIMEOUT_MS",
  "SSE_MAX_AGE_MS",
  "SSE_HEARTBEAT_MS",
  "SEGMENT_MAX_BYTES",
  "SEGMENT_MAX_MESSAGES",
  "SEGMENT_MAX_AGE_MS",
  "INDEX_STEP_BYTES",
  "PRODUCER_MAX_IDLE_MS",
  "REGISTRY_SHARDS",
  "PUT_TIMEOUT_MS",
  "REPLY_TIMEOUT_MS",
  "RETRY_MIN_MS",
  "RETRY_MAX_MS",
  "COLLECT_GRACE_MS",
];

export default async function setup({ provide }) {
  const foreign = process.env.CONFORMANCE_TEST_URL;
  if (foreign) {
    provide("server", { url: foreign });
    return undefined;
  }
  const env = { LONG_POLL_TIMEOUT_MS: "500" };
  for (const name of settings) {
    if (process.env[name] !== undefined) env[name] = process.env[name];
  }
  const cold = process.env.CONFORMANCE_COLD === "1";
  // A stream of more than a few messages then has data in both tiers.
  if (cold) env.SEGMENT_MAX_MESSAGES ??= "3";
  const server = await startServer({
    bundle: "target/worker",
    env,
    cold: shell === "server" ? "directory" : cold,
  });
  provide("server", { url: server.url, longPollTimeoutMs: Number(env.LONG_POLL_TIMEOUT_MS) });
  return () => server.stop();
}
