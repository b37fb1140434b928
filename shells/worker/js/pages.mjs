// Streams bodies that are partly in R2 or have several pages. The Rust code makes and checks them.
// This module fetches what it asks for.

import { release } from "./release.mjs";

/** @import { PageStep, Pages } from "../build/index.js" */

/** A page cannot be made. The message is the Rust code's reason. */
class Damaged extends Error {}

/** @param {PageStep} step */
function checked(step) {
  if (step.error !== undefined) throw new Damaged(step.error);
  return step;
}

/**
 * Yields the body's bytes. Throws if the body is damaged, R2 fails, or the stream is deleted before
 * the body's end. Owns `pages`, and frees them.
 *
 * @param {Pages} pages
 * @param {R2Bucket} bucket
 * @param {(pages: Pages) => boolean} readOn
 * @returns {AsyncGenerator<Uint8Array, void, void>}
 */
async function* bytesOf(pages, bucket, readOn) {
  try {
    for (;;) {
      const { bytes, fetch } = checked(pages.advance());
      if (bytes.byteLength > 0) yield bytes;
      if (fetch === undefined) {
        if (!pages.hasRest) return;
        if (!readOn(pages)) throw new Error("the stream has ended, or its turn has failed");
        continue;
      }
      const { key, offset, length } = fetch;
      const object = await bucket.get(key, { range: { offset, length } });
      if (object === null) throw new Damaged(pages.missing());
      for await (const piece of object.body) {
        const { bytes } = checked(pages.push(piece));
        if (bytes.byteLength > 0) yield bytes;
      }
      checked(pages.fetched());
    }
  } finally {
    release(pages);
  }
}

/**
 * Returns the streamed response after its first bytes were checked.
 *
 * @param {Pages} pages
 * @param {R2Bucket} bucket
 * @param {(pages: Pages) => boolean} readOn Gets the next page.
 * @param {(damaged: string | undefined) => Response} failure
 */
export async function streamPages(pages, bucket, readOn, failure) {
  const bytes = bytesOf(pages, bucket, readOn);
  /** @type {IteratorResult<Uint8Array, void> | undefined} */
  let first;
  const body = new ReadableStream(
    {
      async pull(controller) {
        try {
          const next = first ?? (await bytes.next());
          first = undefined;
          if (next.done) controller.close();
          else controller.enqueue(next.value);
        } catch (error) {
          // The client's connection is cut. The client reads on from its offset.
          console.error("a response broke off", error);
          throw error;
        }
      },
      async cancel() {
        await bytes.return();
      },
    },
    // No bytes are made until the client has taken those before them.
    { highWaterMark: 0 },
  );
  const response = pages.response(body);
  try {
    first = await bytes.next();
  } catch (error) {
    console.error("a page was not made", error);
    return failure(error instanceof Damaged ? error.message : undefined);
  }
  return response;
}
