import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL(".", import.meta.url)),
    include: ["*.test.mjs"],
    globalSetup: ["server.mjs"],
    retry: 0,
    // A loaded machine needs more than the usual 5 seconds for the largest tests.
    testTimeout: 30_000,
  },
});
