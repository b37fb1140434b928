import { runConformanceTests } from "@durable-streams/server-conformance-tests";
import { inject } from "vitest";

const { url, longPollTimeoutMs } = inject("server");

runConformanceTests({
  baseUrl: url,
  // A server that is not ours may wait as long as the suite expects by itself.
  ...(longPollTimeoutMs === undefined ? {} : { longPollTimeoutMs }),
  subscriptions: process.env.CONFORMANCE_SUBSCRIPTIONS === "1",
});
