import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: {
    // The repository's tests import its sources by path. Here these paths lead to the published
    // package.
    alias: [
      { find: /^\.\.\/src$/, replacement: "@durable-streams/y-durable-streams" },
      { find: /^\.\.\/src\/server$/, replacement: "@durable-streams/y-durable-streams/server" },
      {
        find: "@durable-streams/server",
        replacement: fileURLToPath(new URL("stand-in.mjs", import.meta.url)),
      },
    ],
  },
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: [
      "tests/clients/*.test.mjs",
      ...(process.env.CLIENTS_UPSTREAM ? ["tests/clients/upstream/**/*.test.ts"] : []),
    ],
    fileParallelism: false,
    setupFiles: ["tests/harness/failed-tests.mjs"],
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
