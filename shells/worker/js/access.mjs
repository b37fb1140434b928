// Checks the signatures of tokens of Cloudflare Access. The Rust code checks everything else of
// them, and decides when the keys of the team are fetched.

/** @import { Assertion, Proof, Router } from "../build/index.js" */

const ALGORITHM = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };

/**
 * The keys of the team that were fetched last, by their ids.
 *
 * @type {Map<string, JsonWebKey>}
 */
let keys = new Map();

/**
 * Fetches the keys of the team (RFC 7517, section 5).
 *
 * @param {string} url
 * @param {number} timeMs
 */
async function fetchKeys(url, timeMs) {
  const signal = AbortSignal.timeout(timeMs);
  const answer = await fetch(url, { redirect: "manual", signal });
  if (answer.status !== 200) throw new Error(`the answer has the status ${answer.status}`);
  /** @type {{ keys: (JsonWebKey & { kid: string })[] }} */
  const set = await answer.json();
  keys = new Map(set.keys.map((key) => [key.kid, key]));
}

/**
 * Returns what is known of the signature of a token.
 *
 * @param {Assertion} assertion
 * @param {Router} router
 * @returns {Promise<Proof>}
 */
export async function proofOf({ url, timeMs, keyId, signed, signature }, router) {
  try {
    let held = keys.get(keyId);
    let found = router.findKey(held !== undefined, true);
    if (found === "fetch") {
      await fetchKeys(url, timeMs);
      router.fetchedKeys();
      held = keys.get(keyId);
      found = router.findKey(held !== undefined, false);
    }
    if (found !== "known" || held === undefined) {
      return found === "unavailable" ? found : "unknown";
    }
    const key = await crypto.subtle.importKey("jwk", held, ALGORITHM, false, ["verify"]);
    const text = new TextEncoder().encode(signed);
    const isValid = await crypto.subtle.verify(ALGORITHM, key, signature, text);
    return isValid ? "valid" : "wrong";
  } catch (error) {
    console.error("a token of Cloudflare Access cannot be checked", error);
    return "unavailable";
  }
}
