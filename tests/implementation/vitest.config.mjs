import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/implementation/**/*.test.mjs"],
    // Each file starts its own server, and waits most of the time. More files at once would disturb
    // each other's timing.
    maxWorkers: 2,
    maxConcurrency: 20,
    // The tests start the runtime often. Each time V8 would spend a second of processor time to
    // optimize the Worker. The conformance suite runs the optimized code.
    env: { RUNTIME_V8_FLAGS: "--liftoff-only" },
    setupFiles: ["tests/harness/failed-tests.mjs"],
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
});
