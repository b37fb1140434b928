// Writes the events of turns to Analytics Engine. Nothing waits for the writes, and a failed write
// does not fail the turn.

/**
 * Writes the data points of turns. Those of a turn that `waits` are written once it is durable. The
 * time until then is the duration of the events that have none.
 *
 * @param {{ text: string, waits: boolean }[]} turns
 * @param {AnalyticsEngineDataset} dataset
 * @param {DurableObjectStorage} storage
 */
export async function writePoints(turns, dataset, storage) {
  try {
    const began = Date.now();
    if (turns.some(({ waits }) => waits)) await storage.sync();
    const took = Date.now() - began;
    for (const { text, waits } of turns) {
      for (const { indexes, blobs, doubles } of JSON.parse(text)) {
        doubles[3] ??= waits ? took : 0;
        dataset.writeDataPoint({ indexes, blobs, doubles });
      }
    }
  } catch (error) {
    console.error("events were not written", error);
  }
}
