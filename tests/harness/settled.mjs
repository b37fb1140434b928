// Waits until a stream has nothing left to do.

import { eventually } from "./http.mjs";

/** @import { Stream } from "./stream.mjs" */

/**
 * Waits until the others know of the stream's creation. The stream notes that in its row.
 *
 * @param {Stream} stream
 */
export async function announced(stream) {
  await eventually("nothing is to be announced", async () => {
    const { timers } = await stream.statistics();
    return !("reply" in timers) && !("task" in timers);
  });
}

/**
 * Waits until the stream calls and stores nothing by itself.
 *
 * @param {Stream} stream
 */
export async function settled(stream) {
  await eventually(
    "the stream has nothing to do",
    async () => {
      const { timers } = await stream.statistics();
      const reasons = ["reply", "put", "fork", "link", "delivery"];
      // Objects are collected after a grace of an hour, so that task does not count.
      const isDueSoon = timers.task <= Date.now() + 60_000;
      return !isDueSoon && reasons.every((reason) => !(reason in timers));
    },
    { timeoutMs: 60_000 },
  );
}
