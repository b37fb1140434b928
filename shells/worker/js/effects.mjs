// Runs the effects of a turn that take time: puts and deletions in R2, requests to other objects,
// messages for the fan-out queue, and statements for the admin index. The Rust code decides what to
// do, and what to do after a failure.

import { readAtMost } from "./body.mjs";
import { release } from "./release.mjs";

/** @import { Call, Effect, PutJob, StreamObject } from "../build/index.js" */

/** @typedef {(outcome: (object: StreamObject) => void) => void} Report */

const failed = (/** @type {string} */ what, /** @type {unknown} */ error) => {
  console.error(what, error);
  return undefined;
};

/**
 * Puts a segment. Returns whether it is known to be stored. An existing object is not replaced.
 *
 * @param {R2Bucket} bucket
 * @param {StreamObject} object
 * @param {PutJob} job
 */
async function put(bucket, object, job) {
  const { readable, writable } = new FixedLengthStream(object.beginPut(job));
  const writer = writable.getWriter();
  const write = async () => {
    try {
      for (;;) {
        const piece = object.nextPiece(job);
        if (piece === undefined) break;
        await writer.write(piece);
      }
      await writer.close();
    } catch (error) {
      await writer.abort(error).catch(() => {});
      throw error;
    }
  };
  const stored = bucket.put(job.key, readable, { onlyIf: { etagDoesNotMatch: "*" } });
  const [head] = await Promise.all([stored, write()]);
  return head !== null;
}

/**
 * Sends a webhook. A redirect is not followed, because it could lead to an address that was not
 * checked.
 *
 * @param {Extract<Effect, { kind: "webhook" }>} webhook
 */
async function sendWebhook({ url, headers, body, timeMs, answerBytesMax }) {
  const response = await fetch(url, {
    method: "POST",
    headers,
    body,
    redirect: "manual",
    signal: AbortSignal.timeout(timeMs),
  });
  const answer = await readAtMost(response, answerBytesMax);
  return { status: response.status, body: answer ?? new Uint8Array() };
}

/**
 * Sends a request to another object. Returns the status and the body of its answer, or `undefined`
 * if there is none.
 *
 * @param {Call} call
 * @param {Env} env
 */
export async function callObject({ to, url, method, headers, body }, env) {
  try {
    const stub = env.STREAMS.getByName(to);
    const response = await stub.fetch(new Request(url, { method, headers, body }));
    return { status: response.status, body: await response.bytes() };
  } catch (error) {
    return failed(`the object ${to} did not answer`, error);
  }
}

/**
 * Runs one effect and hands its outcome to `report`.
 *
 * @param {Effect} effect
 * @param {Env} env
 * @param {StreamObject} object
 * @param {Report} report
 */
export async function runEffect(effect, env, object, report) {
  switch (effect.kind) {
    case "put": {
      const job = effect.put;
      try {
        const stored = await put(env.SEGMENTS, object, job).catch((error) =>
          failed("a segment was not stored", error),
        );
        report((object) => object.stored(job, stored === true));
      } finally {
        release(job);
      }
      break;
    }
    case "collect": {
      const done = await env.SEGMENTS.delete(effect.keys).then(
        () => true,
        (error) => failed("objects were not deleted", error),
      );
      report((object) => object.collected(effect.id, done === true));
      break;
    }
    case "call": {
      const answer = await callObject(effect, env);
      const content = answer?.body ?? new Uint8Array();
      report((object) => object.replied(effect.id, answer?.status, content));
      break;
    }
    case "webhook": {
      const answer = await sendWebhook(effect).catch((error) =>
        failed(`the receiver ${new URL(effect.url).origin} did not answer`, error),
      );
      const content = answer?.body ?? new Uint8Array();
      report((object) => object.replied(effect.id, answer?.status, content));
      break;
    }
    case "enqueue": {
      const messages = effect.messages.map((body) => ({
        body,
        contentType: /** @type {const} */ ("text"),
      }));
      const done = await env.FANOUT_QUEUE.sendBatch(messages).then(
        () => true,
        (error) => failed("the fan-out queue did not take messages", error),
      );
      report((object) => object.enqueued(effect.id, done === true));
      break;
    }
    case "index": {
      const statements = effect.statements.map(({ sql, values }) =>
        env.ADMIN_INDEX.prepare(sql).bind(...values),
      );
      const done = await env.ADMIN_INDEX.batch(statements).then(
        () => true,
        (error) => failed("the admin index did not answer", error),
      );
      report((object) => object.indexed(effect.id, done === true));
      break;
    }
  }
}
