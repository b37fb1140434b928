// The files of the admin page, which the platform keeps as assets.

/** @import { Page } from "../build/index.js" */

/**
 * Returns the answer with a file of the page.
 *
 * @param {string} method
 * @param {Page} page
 * @param {Fetcher | undefined} assets
 */
export async function pageFile(method, { path, headers, missing }, assets) {
  const found = await assets?.fetch(`http://assets/${path}`, { method });
  if (found?.status !== 200) {
    await found?.body?.cancel();
    return missing;
  }
  return new Response(found.body, { headers });
}
