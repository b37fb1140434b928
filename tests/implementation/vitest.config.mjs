import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["tests/implementation/**/*.test.mjs"],
    // Each file starts a server of its own; side by side they would only measure each other.
    fileParallelism: false,
    maxConcurrency: 20,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
