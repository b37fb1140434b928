// Starts the server for one machine as a process. It shares only its settings with the Worker.

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { DirectoryTier, S3Tier } from "./cold-tier-server.mjs";
import { outputs } from "./output.mjs";

const startDeadlineMs = 60_000;
// Longer than the server's shutdown timeout.
const stopGraceMs = 12_000;

const coldTiers = { directory: DirectoryTier, s3: S3Tier };

/**
 * Starts `binary`, and resolves once it listens. With `port` 0 the system chooses a port. With
 * `cold` the result has `coldTier`, which inspects and breaks the cold tier: the server's own
 * `directory`, or an `s3` service in this process, which is also the meaning of `true`. Without
 * `cold` there is no cold tier. With `fileBytesMax` no file of the server can grow beyond that
 * size.
 *
 * @param {import("./server.mjs").ServerOptions & { binary: string }} options
 */
export async function startOneMachine({
  binary,
  port = 0,
  dataDirectory,
  env = {},
  cold,
  fileBytesMax,
}) {
  const temporary = dataDirectory
    ? undefined
    : await mkdtemp(path.join(tmpdir(), "durable-streams-test-"));
  const data = dataDirectory ?? path.join(temporary, "data");
  await mkdir(path.dirname(data), { recursive: true });
  const coldTier = cold && (await coldTiers[cold === true ? "s3" : cold].start(data));
  const settings = Object.fromEntries(
    Object.entries({ ...(coldTier ? coldTier.environment : { COLD: "none" }), ...env }).map(
      ([name, value]) => [name, String(value)],
    ),
  );
  const bounded =
    fileBytesMax === undefined
      ? []
      : ["bash", "-c", `trap "" XFSZ; ulimit -f ${fileBytesMax >> 10}; exec "$0" "$@"`];
  const command = [
    ...bounded,
    binary,
    "serve",
    "--listen",
    `127.0.0.1:${port}`,
    "--data",
    data,
    "--log-format",
    "json",
  ];
  const child = spawn(command[0], command.slice(1), {
    // The server gets no settings of this process, only those of the test.
    env: { PATH: process.env.PATH, RUST_BACKTRACE: "1", ...settings },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let output = "";
  const exited = new Promise((resolve) => {
    child.once("error", (error) => {
      output += error.message;
      resolve({ code: null, signal: null });
    });
    child.once("exit", (code, signal) => resolve({ code, signal }));
  });
  const killWithParent = () => child.kill("SIGKILL");
  process.once("exit", killWithParent);
  // Also after a start that failed.
  const ended = exited.then(async (how) => {
    process.off("exit", killWithParent);
    await coldTier?.close();
    if (temporary) await rm(temporary, { recursive: true, force: true });
    return how;
  });

  const address = await new Promise((resolve, reject) => {
    const failed = (why) => reject(new Error(`the server did not start: ${why}\n${output}`));
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      failed("it does not listen after the deadline");
    }, startDeadlineMs);
    ended.then(({ code, signal }) => {
      clearTimeout(timer);
      failed(`exit code ${code}, signal ${signal}`);
    });
    let pending = "";
    child.stderr.setEncoding("utf8").on("data", (text) => {
      output = (output + text).slice(-20_000);
      pending += text;
      const lines = pending.split("\n");
      pending = lines.pop();
      for (const line of lines) {
        const found = /"address":"([^"]+)"/.exec(line);
        if (!found) continue;
        clearTimeout(timer);
        resolve(found[1]);
      }
    });
  });

  const url = `http://${address}`;
  outputs.set(url, () => output);
  const end = () => {
    outputs.delete(url);
    return ended;
  };
  return {
    url,
    port: Number(address.split(":").at(-1)),
    coldTier,
    pid: child.pid,
    binary,
    dataDirectory: data,
    output: () => output,
    ended: end,
    async stop({ graceMs = stopGraceMs } = {}) {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
      const how = await end();
      clearTimeout(timer);
      return how;
    },
    async kill() {
      child.kill("SIGKILL");
      return end();
    },
  };
}
