// The server that a test uses: its own, or the one that IMPLEMENTATION_TEST_URL names.

import { startServer } from "./server.mjs";

export const foreignUrl = process.env.IMPLEMENTATION_TEST_URL?.replace(/\/$/, "");

/**
 * Starts a server with `options`. A server that the variable names is used instead, and not
 * stopped.
 */
export async function startOrUse(options) {
  if (!foreignUrl) return startServer(options);
  return { url: foreignUrl, stop: async () => {} };
}
