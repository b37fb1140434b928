import { runConformanceTests } from "@durable-streams/server-conformance-tests";
import { inject } from "vitest";

const { url, longPollTimeoutMs } = inject("server");

runConformanceTests({
  baseUrl: url,
  // For another server, the suite's own timeout applies.
  ...(longPollTimeoutMs === undefined ? {} : { longPollTimeoutMs }),
  subscriptions: true,
});
