// The server that a test speaks to: one of its own, or the one that IMPLEMENTATION_TEST_URL names.

import { startServer } from "./server.mjs";

export const foreignUrl = process.env.IMPLEMENTATION_TEST_URL?.replace(/\/$/, "");

/** Starts a server with `options`, unless a foreign one was named; that one is used as it is and never stopped. */
export async function startOrUse(options) {
  if (!foreignUrl) return startServer(options);
  return { url: foreignUrl, stop: async () => {} };
}
