import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/fidelity/**/*.test.mjs"],
    // The tests mostly wait for alarms and for hibernation.
    maxConcurrency: 50,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
