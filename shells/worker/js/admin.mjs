// Asks other services what the admin API answers about all streams. The Rust code decides what to
// ask, and what the answers mean.

/** @import { Question, Router } from "../build/index.js" */

/**
 * Asks a service, and returns what `Router.health` wants to know of it.
 *
 * @param {string} name
 * @param {() => Promise<unknown>} ask
 */
async function probe(name, ask) {
  const began = Date.now();
  try {
    await ask();
    return [name, Date.now() - began, null];
  } catch (error) {
    console.error(`the service ${name} did not answer`, error);
    return [name, Date.now() - began, "it does not answer; the log has the reason"];
  }
}

/** @param {Env} env */
function probes(env) {
  const registry = () =>
    env.STREAMS.getByName("__registry__").fetch("http://object/v1/stream/__registry__", {
      method: "HEAD",
    });
  const all = [probe("registry", registry)];
  if (env.ADMIN_INDEX !== undefined) {
    all.push(probe("d1", () => env.ADMIN_INDEX.prepare("SELECT path FROM streams LIMIT 1").raw()));
  }
  if (env.SEGMENTS !== undefined) all.push(probe("r2", () => env.SEGMENTS.head("admin-probe")));
  return Promise.all(all);
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
  if (question.kind === "health") return router.health(await probes(env));
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
