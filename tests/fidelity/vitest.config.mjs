import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/fidelity/**/*.test.mjs"],
    // The tests mostly wait for alarms and for hibernation. More of them at once would disturb each
    // other's timing.
    maxConcurrency: 12,
    setupFiles: ["tests/harness/failed-tests.mjs"],
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
