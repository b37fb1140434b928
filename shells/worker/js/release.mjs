/**
 * Frees an object of the Rust code. Whoever gets such an object from a call releases it in a
 * `finally`.
 *
 * A panic replaces the wasm instance. Objects of the old one are gone with its memory, and their
 * methods throw.
 *
 * @param {{ release(): void } | undefined} object
 */
export function release(object) {
  try {
    object?.release();
  } catch {
    // The object belonged to an instance that has panicked.
  }
}
