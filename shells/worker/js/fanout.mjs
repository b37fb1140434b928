// The consumer of the fan-out queue. The Rust code decides what to do with each message.

import { callObject } from "./effects.mjs";
import { release } from "./release.mjs";

/** @import { Call, Router } from "../build/index.js" */

/**
 * Calls an object, and waits no longer than `timeMs` for its answer. The call itself goes on.
 *
 * @param {Call & { timeMs: number }} call
 * @param {Env} env
 */
async function callFor(call, env) {
  /** @type {number | null} */
  let timer = null;
  /** @type {Promise<undefined>} */
  const patience = new Promise((resolve) => {
    timer = setTimeout(resolve, call.timeMs, undefined);
  });
  const answer = await Promise.race([callObject(call, env), patience]);
  clearTimeout(timer);
  return answer;
}

/**
 * @param {Message<unknown>} message
 * @param {Env} env
 * @param {Router} router
 */
async function deliver(message, env, router) {
  let delivery;
  try {
    delivery = router.delivery(String(message.body), message.attempts);
    let next = delivery.begin();
    while (next.kind === "call") {
      const answer = await callFor(next, env);
      next = delivery.called(answer?.status, answer?.body ?? new Uint8Array());
    }
    if (next.kind === "acknowledge") message.ack();
    else message.retry({ delaySeconds: next.afterSeconds });
  } catch (error) {
    console.error("a message of the fan-out queue was not handled", error);
    // As if the handler had thrown for this message alone.
    message.retry();
  } finally {
    release(delivery);
  }
}

/**
 * Handles the messages of a batch side by side. Each is acknowledged or comes again by itself.
 *
 * @param {MessageBatch<unknown>} batch
 * @param {Env} env
 * @param {Router} router
 */
export async function deliverAll(batch, env, router) {
  await Promise.all(batch.messages.map((message) => deliver(message, env, router)));
}
