// The servers to compare. Each is configured to answer an append only when it is on disk, and
// otherwise has its defaults.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import net from "node:net";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import path from "node:path";
import { sleep } from "../../harness/http.mjs";
import { repositoryRoot } from "../../harness/server.mjs";

const startDeadlineMs = 120_000;
const scratch = path.join(repositoryRoot, "target/peers");
const tools = path.join(repositoryRoot, ".tools");

const versions = JSON.parse(readFileSync(new URL("versions.json", import.meta.url), "utf8"));
const directoryOf = (name, version) => path.join(tools, `${name.replace(/[@/]/g, "_")}-${version}`);
const crate = (name) => ({
  title: `${name} ${versions.crates[name]}`,
  directory: directoryOf(name, versions.crates[name]),
});
const reference = "@durable-streams/server";

const nodeReference = `
  import { DurableStreamTestServer } from "@durable-streams/server";
  const [port, dataDir] = process.argv.slice(1);
  await new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", dataDir }).start();
`;

/**
 * `start` returns the command for a port and a directory. `options` describes the configuration for
 * readers of the figures.
 */
export const servers = [
  {
    name: "this server",
    options: "all defaults: SQLite with `synchronous=FULL`, commits shared by what waits for them",
    start: (port, data) => ({
      program: path.join(repositoryRoot, "target/server/durable-streams"),
      parameters: ["serve", "--listen", `127.0.0.1:${port}`, "--data", data, "--log", "warn"],
    }),
  },
  {
    name: crate("durable-streams").title,
    options: "all defaults: `--durability wal`",
    start: (port, data) => ({
      program: path.join(crate("durable-streams").directory, "bin/durable-streams-server"),
      parameters: ["--port", String(port), "--data-dir", data],
    }),
  },
  {
    name: crate("durable-streams-server").title,
    options:
      "`DS_STORAGE__MODE=file-durable`, and 4 GiB for what it bounds at 100 MiB and at 10 MiB for a stream",
    start: (port, data) => ({
      program: path.join(crate("durable-streams-server").directory, "bin/durable-streams-server"),
      parameters: [],
      env: {
        DS_SERVER__BIND_ADDRESS: `127.0.0.1:${port}`,
        DS_STORAGE__MODE: "file-durable",
        DS_STORAGE__DATA_DIR: data,
        DS_LIMITS__MAX_MEMORY_BYTES: String(4 * 2 ** 30),
        DS_LIMITS__MAX_STREAM_BYTES: String(4 * 2 ** 30),
        DS_OBSERVABILITY__RUST_LOG: "warn",
        RUST_LOG: "warn",
      },
    }),
  },
  {
    name: `Node reference ${versions.packages[reference]}`,
    options: "`dataDir` set",
    // It keeps 100 files open, and answers 404 to an append whose file it closes meanwhile.
    opensFewFiles: true,
    start: (port, data) => ({
      program: process.execPath,
      parameters: ["--input-type=module", "--eval", nodeReference, String(port), data],
      directory: directoryOf(reference, versions.packages[reference]),
    }),
  },
];

async function freePort() {
  const listener = net.createServer();
  await new Promise((resolve, reject) =>
    listener.once("error", reject).listen(0, "127.0.0.1", resolve),
  );
  const { port } = listener.address();
  await new Promise((resolve) => listener.close(resolve));
  return port;
}

function connects(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

/**
 * Starts a server on an empty directory, which is removed with it. `restart` kills it and starts it
 * again on the same directory and port.
 */
export async function startPeer(server) {
  await mkdir(scratch, { recursive: true });
  const directory = await mkdtemp(path.join(scratch, "data-"));
  const port = await freePort();
  const data = path.join(directory, "data");
  await mkdir(data);
  let output = "";
  const heard = (text) => {
    output = (output + text).slice(-20_000);
  };
  const start = async () => {
    const child = launch(server, port, data, directory, heard);
    const deadline = Date.now() + startDeadlineMs;
    while (!(await connects(port))) {
      if (child.hasExited || Date.now() > deadline) {
        await child.kill();
        await rm(directory, { recursive: true, force: true });
        throw new Error(`${server.name} does not listen\n${output}`);
      }
      await sleep(5);
    }
    return child;
  };
  let child = await start();
  return {
    name: server.name,
    opensFewFiles: server.opensFewFiles ?? false,
    url: `http://127.0.0.1:${port}`,
    port,
    data,
    get pid() {
      return child.pid;
    },
    output: () => output,
    async restart() {
      await child.kill();
      child = await start();
    },
    async stop() {
      // Its data is removed, so it need not end cleanly.
      await child.kill();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** One process of a server. */
function launch(server, port, data, directory, heard) {
  const { program, parameters, env = {}, directory: cwd = directory } = server.start(port, data);
  const child = spawn(program, parameters, {
    cwd,
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", heard);
  let hasExited = false;
  const exited = new Promise((resolve) => {
    child.once("error", (error) => {
      heard(error.message);
      hasExited = true;
      resolve();
    });
    child.once("exit", () => {
      hasExited = true;
      resolve();
    });
  });
  const killWithParent = () => child.kill("SIGKILL");
  process.once("exit", killWithParent);
  exited.then(() => process.off("exit", killWithParent));
  return {
    pid: child.pid,
    get hasExited() {
      return hasExited;
    },
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
