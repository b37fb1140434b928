// Starts the real runtime (workerd) on a built bundle, so that every test speaks HTTP to the program that is deployed.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { request } from "./http.mjs";

export const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));

/** The directory below the data directory in which the runtime keeps one SQLite file for each object. */
export const objectNamespace = "streams";

const startDeadlineMs = 15_000;
const stopGraceMs = 2_000;

// The npm package's own executable may be a Node script that spawns the binary; the pid would then not be the runtime's.
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

function configuration({ modules, date, flags, objects, bindings, dataDirectory, port }) {
  const quoted = (text) => JSON.stringify(text);
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    (name = "data", disk = (path = ${quoted(dataDirectory)}, writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const worker :Workerd.Worker = (
  modules = [${modules
    .map(({ name, kind }) => `(name = ${quoted(name)}, ${kind} = embed ${quoted(name)})`)
    .join(", ")}],
  compatibilityDate = ${quoted(date)},
  compatibilityFlags = [${flags.map(quoted).join(", ")}],
  durableObjectNamespaces = [${objects
    .map(({ className }) => `(className = ${quoted(className)}, uniqueKey = ${quoted(objectNamespace)}, enableSql = true)`)
    .join(", ")}],
  durableObjectStorage = (localDisk = "data"),
  bindings = [${[
    ...objects.map(({ className, binding }) => `(name = ${quoted(binding)}, durableObjectNamespace = ${quoted(className)})`),
    ...Object.entries(bindings).map(([name, value]) => `(name = ${quoted(name)}, text = ${quoted(String(value))})`),
  ].join(", ")}],
);
`;
}

/**
 * Starts a server and resolves once it answers.
 *
 * `bundle` is a directory holding `index.js` and, for the project's own bundles, `index_bg.wasm`; relative paths start at the root of the repository.
 * With `port` 0 the system chooses one. Without `dataDirectory` the data lives in a temporary directory that goes with the server.
 */
export async function startServer({
  bundle = "target/worker-test",
  port = 0,
  dataDirectory,
  env = {},
  modules = [
    { name: "index.js", kind: "esModule" },
    { name: "index_bg.wasm", kind: "wasm" },
  ],
  objects = [{ className: "StreamObject", binding: "STREAMS" }],
} = {}) {
  const workingDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-test-"));
  const data = dataDirectory ? path.resolve(repositoryRoot, dataDirectory) : path.join(workingDirectory, "data");
  await mkdir(data, { recursive: true });
  for (const { name } of modules) {
    await copyFile(path.resolve(repositoryRoot, bundle, name), path.join(workingDirectory, name));
  }
  const { date, flags } = await compatibility();
  const configurationFile = path.join(workingDirectory, "config.capnp");
  await writeFile(configurationFile, configuration({ modules, date, flags, objects, bindings: env, dataDirectory: data, port }));

  const child = spawn(runtimeBinary(), ["serve", "--control-fd=3", configurationFile], {
    cwd: workingDirectory,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  let output = "";
  const keep = (text) => {
    output = (output + text).slice(-20_000);
  };
  child.stdout.setEncoding("utf8").on("data", keep);
  child.stderr.setEncoding("utf8").on("data", keep);
  const exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  const killWithParent = () => child.kill("SIGKILL");
  process.once("exit", killWithParent);
  exited.then(() => process.off("exit", killWithParent));

  const boundPort = await listeningPort(child, exited, () => output);
  const url = `http://127.0.0.1:${boundPort}`;
  await untilAnswering(url);

  const ended = async () => {
    await exited;
    await rm(workingDirectory, { recursive: true, force: true });
  };
  return {
    url,
    port: boundPort,
    pid: child.pid,
    dataDirectory: data,
    output: () => output,
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), stopGraceMs);
      await ended();
      clearTimeout(timer);
    },
    async kill() {
      child.kill("SIGKILL");
      await ended();
    },
  };
}

// The runtime reports the port that it bound on the control descriptor: no port is guessed, so none is lost to another process.
function listeningPort(child, exited, output) {
  return new Promise((resolve, reject) => {
    const failed = (why) => reject(new Error(`the server did not start: ${why}\n${output()}`));
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      failed("no port after the deadline");
    }, startDeadlineMs);
    exited.then(({ code, signal }) => {
      clearTimeout(timer);
      failed(`exit code ${code}, signal ${signal}`);
    });
    let pending = "";
    child.stdio[3].setEncoding("utf8").on("data", (text) => {
      pending += text;
      const lines = pending.split("\n");
      pending = lines.pop();
      for (const line of lines) {
        const message = JSON.parse(line);
        if (message.event !== "listen") continue;
        clearTimeout(timer);
        resolve(message.port);
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
