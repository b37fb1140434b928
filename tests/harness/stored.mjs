// Waits until a stream has exactly the expected objects in the cold tier.

import { eventually } from "./http.mjs";

/**
 * Waits until `count` segments of the stream are stored, and no objects of other attempts are left.
 * Returns the rows of the segments.
 *
 * @param {Awaited<ReturnType<typeof import("./server.mjs").startServer>>} server
 * @param {import("./stream.mjs").Stream} stream
 * @param {number} count
 */
export function untilStored(server, stream, count) {
  return eventually(
    `${count} stored segments of ${stream.name} and no other objects`,
    async () => {
      const rows = await server.coldTier.segmentsOf(stream);
      const stored = rows.map((row) => row.r2_key).sort();
      const keys = (await server.coldTier.objectsOf(stream.name)).map(({ key }) => key);
      return rows.length === count && keys.join() === stored.join() && rows;
    },
    { timeoutMs: 60_000 },
  );
}
