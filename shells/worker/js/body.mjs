/**
 * Returns a whole body, or `undefined` if it is longer than this.
 *
 * @param {Request | Response} message
 * @param {number} bytesMax
 */
export async function readAtMost(message, bytesMax) {
  /** @type {Uint8Array[]} */
  const pieces = [];
  let bytes = 0;
  for await (const piece of message.body ?? []) {
    bytes += piece.byteLength;
    if (bytes > bytesMax) return undefined;
    pieces.push(piece);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}
