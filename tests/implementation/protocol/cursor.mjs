const epoch = Date.UTC(2024, 9, 9);
const intervalMs = 20_000;

/** The current cursor with the defaults of section 10.1. */
export function currentInterval() {
  return BigInt(Math.floor((Date.now() - epoch) / intervalMs));
}
