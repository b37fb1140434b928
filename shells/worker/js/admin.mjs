// Asks other services what the admin API answers about all streams. The Rust code decides what to
// ask, and what the answers mean.

import { callObject } from "./effects.mjs";

/** @import { Question, Router } from "../build/index.js" */

/**
 * Asks a service, and returns what `Router.health` wants to know of it.
 *
 * @param {string} name
 * @param {() => Promise<number | void>} ask Resolves to the status of the answer, if it has one.
 */
async function probe(name, ask) {
  const began = Date.now();
  try {
    const status = await ask();
    return [name, Date.now() - began, true, status];
  } catch (error) {
    console.error(`the service ${name} did not answer`, error);
    return [name, Date.now() - began, false];
  }
}

/**
 * @param {{ object: string, url: string, sql: string, key: string }} question
 * @param {Env} env
 */
function probes({ object, url, sql, key }, env) {
  const registry = async () => {
    const answer = await env.STREAMS.getByName(object).fetch(url, { method: "HEAD" });
    return answer.status;
  };
  const all = [probe("registry", registry)];
  if (env.ADMIN_INDEX !== undefined) {
    all.push(
      probe("d1", async () => {
        await env.ADMIN_INDEX.prepare(sql).raw();
      }),
    );
  }
  if (env.SEGMENTS !== undefined) {
    all.push(
      probe("r2", async () => {
        await env.SEGMENTS.head(key);
      }),
    );
  }
  return Promise.all(all);
}

/**
 * Asks Analytics Engine, and returns the text of its answer.
 *
 * @param {{ url: string, token: string, sql: string, timeMs: number }} question
 */
async function ask({ url, token, sql, timeMs }) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}` },
    body: sql,
    redirect: "manual",
    signal: AbortSignal.timeout(timeMs),
  });
  if (answer.status === 200) return await answer.text();
  throw new Error(`the answer has the status ${answer.status}`);
}

/**
 * Answers a request about all streams.
 *
 * @param {Question} question
 * @param {string} head
 * @param {Env} env
 * @param {Router} router
 */
export async function answerQuestion(question, head, env, router) {
  if (question.kind === "counts") {
    const answer = await ask(question).catch((error) => {
      console.error("Analytics Engine did not answer", error);
      return undefined;
    });
    return router.counted(head, question.at, answer);
  }
  if (question.kind === "health") return router.health(await probes(question, env));
  if (question.kind === "subscriptions") {
    const answers = await Promise.all(question.calls.map((call) => callObject(call, env)));
    return router.listedSubscriptions(
      head,
      answers.map((answer) => answer && [answer.status, answer.body]),
    );
  }
  const { sql, values } = question;
  const rows = await env.ADMIN_INDEX.prepare(sql)
    .bind(...values)
    .raw()
    .catch((error) => {
      console.error("the admin index did not answer", error);
      return undefined;
    });
  return router.listed(head, rows);
}

/**
 * Returns the response without CORS headers: no page of another origin may read it.
 *
 * @param {Response} response
 */
export function withoutCors(response) {
  const last = new Response(response.body, response);
  const names = [...last.headers.keys()].filter((name) => name.startsWith("access-control-"));
  for (const name of names) last.headers.delete(name);
  return last;
}
