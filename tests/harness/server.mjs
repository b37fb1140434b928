// Starts the server under test. Every test speaks HTTP to the program that is deployed: the real
// runtime (workerd) with a built bundle, or the server for one machine.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { copyFile, mkdir, mkdtemp, readFile, rm, statfs, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { analyticsParts } from "./analytics.mjs";
import { ColdTier, coldTierParts } from "./cold-tier.mjs";
import { edgeCacheParts } from "./edge-cache.mjs";
import { FanoutQueue, fanoutQueueParts } from "./fanout-queue.mjs";
import { request } from "./http.mjs";
import { startOneMachine } from "./one-machine.mjs";
import { outputs } from "./output.mjs";

/** The shell under test: `worker` or `server`. */
export const shell = process.env.TEST_SHELL || "worker";

export const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));

/** The subdirectory of the data directory with the runtime's SQLite files, one for each object. */
export const objectNamespace = "streams";

const quoted = (text) => JSON.stringify(text);

// Flags of the runtime's V8, separated by spaces.
const runtimeFlags = (process.env.RUNTIME_V8_FLAGS ?? "").split(" ").filter(Boolean);

const startDeadlineMs = 60_000;
const stopGraceMs = 2_000;

// The npm package's executable may be a Node script that starts the binary. Its pid would not be
// the runtime's.
function runtimeBinary() {
  const platform = process.platform === "win32" ? "windows" : process.platform;
  const architecture = process.arch === "x64" ? "64" : process.arch;
  const inside = createRequire(path.join(repositoryRoot, "package.json"));
  return inside.resolve(`@cloudflare/workerd-${platform}-${architecture}/bin/workerd`);
}

async function compatibility() {
  const text = await readFile(path.join(repositoryRoot, "wrangler.toml"), "utf8");
  const date = text.match(/^\s*compatibility_date\s*=\s*"([^"]+)"/m);
  if (!date) throw new Error("wrangler.toml names no compatibility_date");
  const flags = text.match(/^\s*compatibility_flags\s*=\s*(\[[^\]]*\])/m);
  return { date: date[1], flags: flags ? JSON.parse(flags[1].replace(/,\s*\]$/, "]")) : [] };
}

/** Returns what serves the built admin page, as the platform's assets do in production. */
function pageParts() {
  const directory = path.join(repositoryRoot, "admin/dist");
  if (!existsSync(directory)) return undefined;
  return {
    service: `(name = "page", disk = (path = ${quoted(directory)})),`,
    bindings: [`(name = "ASSETS", service = "page")`],
  };
}

function configuration({
  modules,
  date,
  flags,
  objects,
  bindings,
  dataDirectory,
  port,
  cold,
  cache,
  page,
  metrics,
  queue,
}) {
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  v8Flags = [${runtimeFlags.map(quoted).join(", ")}],
  services = [
    (name = "main", worker = .worker),
    (name = "internet", network = (allow = ["public", "private"])),
    (name = "data", disk = (path = ${quoted(dataDirectory)}, writable = true)),
    ${page?.service ?? ""}
    ${cold?.services ?? ""}
    ${cache?.services ?? ""}
    ${metrics?.services ?? ""}
    ${queue?.services ?? ""}
  ],
  sockets = [
    (name = "http", address = "127.0.0.1:${port}", http = (), service = "main"),
    ${cold?.sockets ?? ""}
    ${queue?.sockets ?? ""}
  ],
  extensions = [${[
    cold?.extensions ?? cache?.extensions,
    metrics?.modules && `(modules = [${metrics.modules}])`,
  ]
    .filter(Boolean)
    .join(", ")}],
);
const worker :Workerd.Worker = (
  modules = [${modules
    .map(({ name, kind }) => `(name = ${quoted(name)}, ${kind} = embed ${quoted(name)})`)
    .join(", ")}],
  compatibilityDate = ${quoted(date)},
  compatibilityFlags = [${flags.map(quoted).join(", ")}],
  ${cache?.worker ?? ""}
  durableObjectNamespaces = [${objects
    .map(
      ({ className }) =>
        `(className = ${quoted(className)}, uniqueKey = ${quoted(objectNamespace)}, enableSql = true)`,
    )
    .join(", ")}],
  durableObjectStorage = (localDisk = "data"),
  bindings = [${[
    ...objects.map(
      ({ className, binding }) =>
        `(name = ${quoted(binding)}, durableObjectNamespace = ${quoted(className)})`,
    ),
    ...Object.entries(bindings).map(([name, value]) => {
      const isText = typeof value !== "object";
      const of = isText ? `text = ${quoted(String(value))}` : `json = ${quoted(JSON.stringify(value))}`;
      return `(name = ${quoted(name)}, ${of})`;
    }),
    ...(page?.bindings ?? []),
    ...(cold?.bindings ?? []),
    ...(metrics?.bindings ?? []),
    ...(queue?.bindings ?? []),
  ].join(", ")}],
);
`;
}

// The server for one machine has binaries where the Worker has bundles.
const binaries = {
  "target/worker": "target/server/durable-streams",
  "target/worker-test": "target/server-test/durable-streams",
};

/**
 * How a server is started. `startWorker` and `startOneMachine` say what the options mean.
 *
 * @typedef {object} ServerOptions
 * @property {string} [bundle]
 * @property {number} [port]
 * @property {string} [dataDirectory]
 * @property {Record<string, string | number | unknown[]>} [env]
 * @property {{ name: string, kind: string }[]} [modules]
 * @property {{ className: string, binding: string }[]} [objects]
 * @property {boolean | "directory" | "s3"} [cold]
 * @property {boolean} [cache]
 * @property {import("./analytics.mjs").Analytics | "discarded"} [metrics]
 * @property {boolean} [queue]
 * @property {number} [fileBytesMax]
 */

/**
 * Starts a server of the shell under test, with the options of `startWorker`.
 *
 * @param {ServerOptions} [options]
 */
export function startServer(options = {}) {
  if (shell !== "server") return startWorker(options);
  const { bundle = "target/worker-test", dataDirectory, ...rest } = options;
  const binary = path.resolve(repositoryRoot, binaries[bundle]);
  return startOneMachine({
    binary,
    dataDirectory: dataDirectory && path.resolve(repositoryRoot, dataDirectory),
    ...rest,
  });
}

// With a cold tier, one thread stores the data of three services, and waits for the disk each time.
// In production these services are separate. A file system in memory, if there is one with room,
// makes up for that. It also survives a killed process.
const memoryDisk = "/dev/shm";
const memoryDiskBytesMin = 1 << 30;

/** Creates a directory that is removed with the test. */
export async function scratchDirectory(label, { cold = false } = {}) {
  const memory = cold ? await statfs(memoryDisk).catch(() => undefined) : undefined;
  const hasRoom = memory !== undefined && memory.bavail * memory.bsize > memoryDiskBytesMin;
  return mkdtemp(path.join(hasRoom ? memoryDisk : tmpdir(), `durable-streams-${label}-`));
}

/**
 * Starts the Worker and resolves once it answers.
 *
 * `bundle` is a directory with `index.js` and, for the project's own bundles, `index_bg.wasm`.
 * Relative paths start at the root of the repository. With `port` 0 the system chooses a port.
 * Without `dataDirectory` the data is in a temporary directory that is removed with the server.
 * With `cold` there are R2 and D1 as wrangler runs them on this machine, and `coldTier` inspects
 * and breaks them. With `cache` there is an edge cache as wrangler runs it. With `metrics` there is
 * the dataset `METRICS`. With `queue` there is the fan-out queue, and `queue` of the result
 * inspects and breaks it. A list in `env` becomes a variable that is no text.
 *
 * @param {ServerOptions} [options]
 */
export async function startWorker({
  bundle = "target/worker-test",
  port = 0,
  dataDirectory,
  env = {},
  modules = [
    { name: "index.js", kind: "esModule" },
    { name: "index_bg.wasm", kind: "wasm" },
  ],
  objects = [{ className: "StreamObject", binding: "STREAMS" }],
  cold = false,
  cache = false,
  metrics,
  queue = false,
} = {}) {
  const workingDirectory = await scratchDirectory("test", { cold: cold !== false });
  const data = dataDirectory
    ? path.resolve(repositoryRoot, dataDirectory)
    : path.join(workingDirectory, "data");
  await mkdir(data, { recursive: true });
  for (const { name } of modules) {
    await copyFile(path.resolve(repositoryRoot, bundle, name), path.join(workingDirectory, name));
  }
  const { date, flags } = await compatibility();
  const parts = cold ? await coldTierParts(workingDirectory, data) : undefined;
  const metricsParts = metrics && analyticsParts(metrics);
  const cacheParts = cache ? await edgeCacheParts(workingDirectory, data) : undefined;
  const queueParts = queue ? await fanoutQueueParts(workingDirectory, data) : undefined;
  const configurationFile = path.join(workingDirectory, "config.capnp");
  await writeFile(
    configurationFile,
    configuration({
      modules,
      date,
      flags,
      objects,
      bindings: env,
      dataDirectory: data,
      port,
      cold: parts,
      cache: cacheParts,
      page: pageParts(),
      metrics: metricsParts,
      queue: queueParts,
    }),
  );

  const child = spawn(
    runtimeBinary(),
    [
      "serve",
      "--control-fd=3",
      ...((parts ?? cacheParts ?? metricsParts ?? queueParts)?.options ?? []),
      configurationFile,
    ],
    {
      cwd: workingDirectory,
      stdio: ["ignore", "pipe", "pipe", "pipe"],
    },
  );
  let output = "";
  const keep = (text) => {
    output = (output + text).slice(-20_000);
  };
  child.stdout.setEncoding("utf8").on("data", keep);
  child.stderr.setEncoding("utf8").on("data", keep);
  const exited = new Promise((resolve) =>
    child.once("exit", (code, signal) => resolve({ code, signal })),
  );
  const killWithParent = () => child.kill("SIGKILL");
  process.once("exit", killWithParent);
  // Also after a start that failed.
  const ended = exited.then(async (how) => {
    process.off("exit", killWithParent);
    await rm(workingDirectory, { recursive: true, force: true });
    return how;
  });

  const ports = await listeningPorts(
    child,
    ended,
    ["http", ...[parts, queueParts].flatMap((each) => each?.socket ?? [])],
    () => output,
  );
  const url = `http://127.0.0.1:${ports.http}`;
  await untilAnswering(url);
  const coldTier = parts && new ColdTier(`http://127.0.0.1:${ports[parts.socket]}`);
  await coldTier?.migrate();
  const fanoutQueue =
    queueParts && new FanoutQueue(`http://127.0.0.1:${ports[queueParts.socket]}`);
  // It goes on with what an earlier server has left.
  await fanoutQueue?.counts();

  outputs.set(url, () => output);
  const end = () => {
    outputs.delete(url);
    return ended;
  };
  return {
    url,
    port: ports.http,
    coldTier,
    queue: fanoutQueue,
    pid: child.pid,
    dataDirectory: data,
    output: () => output,
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

// The runtime reports the ports that it bound on the control descriptor. A guessed port could
// belong to another process.
function listeningPorts(child, ended, sockets, output) {
  return new Promise((resolve, reject) => {
    const failed = (why) => reject(new Error(`the server did not start: ${why}\n${output()}`));
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      failed("no port after the deadline");
    }, startDeadlineMs);
    ended.then(({ code, signal }) => {
      clearTimeout(timer);
      failed(`exit code ${code}, signal ${signal}`);
    });
    let pending = "";
    const ports = {};
    child.stdio[3].setEncoding("utf8").on("data", (text) => {
      pending += text;
      const lines = pending.split("\n");
      pending = lines.pop();
      for (const line of lines) {
        const message = JSON.parse(line);
        if (message.event !== "listen") continue;
        ports[message.socket] = message.port;
        if (!sockets.every((socket) => socket in ports)) continue;
        clearTimeout(timer);
        resolve(ports);
      }
    });
  });
}

async function untilAnswering(url) {
  const deadline = Date.now() + startDeadlineMs;
  for (;;) {
    try {
      await request(url, "/");
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
