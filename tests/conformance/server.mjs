// One server for the whole suite: the one that CONFORMANCE_TEST_URL names, or one that is started
// here on the bundle for deployment, with the cold tier of a deployment. With CONFORMANCE_COLD=1 it
// has tiny segments.

import { shell, startServer } from "../harness/server.mjs";
import { settings } from "../harness/settings.mjs";

export default async function setup({ provide }) {
  const foreign = process.env.CONFORMANCE_TEST_URL;
  if (foreign) {
    provide("server", { url: foreign });
    return undefined;
  }
  // The suite's receivers are on this machine.
  const env = { LONG_POLL_TIMEOUT_MS: "3000", WEBHOOK_ALLOW_LOOPBACK: "1" };
  for (const { name } of settings) {
    if (process.env[name] !== undefined) env[name] = process.env[name];
  }
  const cold = process.env.CONFORMANCE_COLD === "1";
  // A stream of more than a few messages then has data in both tiers.
  if (cold) env.SEGMENT_MAX_MESSAGES ??= "3";
  const server = await startServer({
    bundle: "target/worker",
    env,
    cold: shell === "server" ? "directory" : true,
  });
  // The suite uses it only as the time limit of its tests, to which it adds one second.
  const longPollTimeoutMs = Number(env.LONG_POLL_TIMEOUT_MS) + 30_000;
  provide("server", { url: server.url, longPollTimeoutMs });
  return () => server.stop();
}
