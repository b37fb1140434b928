import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/admin/*.test.mjs"],
    // Each file starts its own server. In parallel they would disturb each other's timing.
    fileParallelism: false,
    // The tests start the runtime often. Each time V8 would spend a second of processor time to
    // optimize the Worker. The conformance suite runs the optimized code.
    env: { RUNTIME_V8_FLAGS: "--liftoff-only" },
    setupFiles: ["tests/harness/failed-tests.mjs"],
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
});
