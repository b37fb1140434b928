import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/fidelity/**/*.test.mjs"],
    // Most of the time is waiting: for alarms, and for objects to fall asleep.
    maxConcurrency: 50,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
