// The simulator in wasm. It goes to an event by running up to there, which takes milliseconds.

/**
 * @typedef {{
 *   simulated_ms: number, event: number, lane: string, text: string,
 *   mark: "point" | "begins" | "ends" | "loses" | "breaks" | "fault" | "failure", span?: string,
 * }} Line
 * @typedef {{ lane: string, title: string, text: string }} Section
 * @typedef {{
 *   oracle: string, meaning: string, expected: string, actual: string, event: number,
 * }} Failure
 * @typedef {{
 *   hash: string, draws: number, events: number, operations: number, simulated_ms: number,
 *   beginning_ms: number, failure: Failure | null, settings: string, trace: Line[],
 *   state: Section[],
 * }} Replay
 * @typedef {{
 *   name: string, flag: string, world: number, tape: string, hash: string, until: number,
 *   events: number, failure: Failure | null,
 * }} Run what the native simulator has written into the page
 * @typedef {{
 *   memory: WebAssembly.Memory,
 *   input(length: number): number,
 *   replay(world: number, until: bigint): void,
 *   state(world: number, until: bigint): void,
 *   output(): number,
 *   output_length(): number,
 * }} Exports
 */

/** How many states are kept. */
const STATES_KEPT = 64;

/** The run panics. Its text is the one of the panic. */
export class Panic extends Error {}

/** @param {string} base64 */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
}

export class Simulator {
  #module;
  #run;
  #tape;
  /** @type {Map<number, Replay>} */
  #states = new Map();

  /**
   * @param {WebAssembly.Module} module
   * @param {Run} run
   */
  constructor(module, run) {
    this.#module = module;
    this.#run = run;
    this.#tape = bytesOf(run.tape);
    this.#instance = this.#begin();
  }

  /**
   * Unpacks the module that the page contains.
   *
   * @param {string} packed gzip in base64
   * @param {Run} run
   */
  static async load(packed, run) {
    const stream = new Blob([bytesOf(packed.trim())]).stream();
    const unpacked = stream.pipeThrough(new DecompressionStream("gzip"));
    const bytes = await new Response(unpacked).arrayBuffer();
    return new Simulator(await WebAssembly.compile(bytes), run);
  }

  /** @type {Exports} */
  #instance;

  #begin() {
    const { exports } = new WebAssembly.Instance(this.#module);
    return /** @type {Exports} */ (/** @type {unknown} */ (exports));
  }

  /**
   * Runs to the end, or to an event.
   *
   * @param {number} [until]
   */
  replay(until) {
    // The largest number, as the simulator reads it.
    return this.#call("replay", until === undefined ? -1n : BigInt(until));
  }

  /**
   * Returns the state after an event, without the trace.
   *
   * @param {number} until
   */
  state(until) {
    const known = this.#states.get(until);
    if (known) return known;
    const state = this.#call("state", BigInt(until));
    if (this.#states.size >= STATES_KEPT) {
      for (const oldest of this.#states.keys()) {
        this.#states.delete(oldest);
        break;
      }
    }
    this.#states.set(until, state);
    return state;
  }

  /**
   * @param {"replay" | "state"} what
   * @param {bigint} until
   * @returns {Replay}
   */
  #call(what, until) {
    const exports = this.#instance;
    const at = exports.input(this.#tape.length);
    new Uint8Array(exports.memory.buffer, at, this.#tape.length).set(this.#tape);
    try {
      exports[what](this.#run.world, until);
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      const text = this.#output();
      // What a trap leaves in memory is not used again.
      this.#instance = this.#begin();
      throw new Panic(text || error.message);
    }
    return JSON.parse(this.#output());
  }

  #output() {
    const { memory, output, output_length } = this.#instance;
    const bytes = new Uint8Array(memory.buffer, output(), output_length());
    return new TextDecoder().decode(bytes);
  }
}
