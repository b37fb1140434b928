// The published Python client. Its source package contains its tests. Those that need a server run
// here against ours, as do our own in tests/clients/python. Each of them becomes a test of this
// file.

import { spawn } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { repositoryRoot, shell, startServer } from "../harness/server.mjs";

const installed = path.join(repositoryRoot, ".tools/python-clients");
const reports = path.join(repositoryRoot, "target/reports");
const deadlineMs = 60_000;

const server = await startServer({ bundle: "target/worker", env: { LONG_POLL_TIMEOUT_MS: 1_000 } });
afterAll(() => server.stop());

// The tests look for the root of their repository, and start this program there to get a server.
const program = path.join(installed, "source/packages/client-py/tests/start_server.js");
await writeFile(path.join(installed, "source/pnpm-workspace.yaml"), "");
await writeFile(
  program,
  "console.log(`SERVER_URL=${process.env.SERVER_URL}`);\nsetInterval(() => {}, 60_000);\n",
);

/** Runs pytest. Returns its output, and each test with its failure, if any. */
async function pytest(label, parameters) {
  await mkdir(reports, { recursive: true });
  const report = path.join(reports, `python-${label}-${shell}.xml`);
  await writeFile(report, "");
  const child = spawn(
    path.join(installed, "venv/bin/python"),
    ["-m", "pytest", "-p", "no:cacheprovider", `--junitxml=${report}`, ...parameters],
    {
      cwd: repositoryRoot,
      env: { ...process.env, SERVER_URL: `${server.url}/v1/stream`, PYTHONDONTWRITEBYTECODE: "1" },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: deadlineMs,
    },
  );
  let output = "";
  for (const pipe of [child.stdout, child.stderr]) {
    pipe.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
  }
  await new Promise((resolve) => child.once("close", resolve));
  const cases = [];
  for (const [, attributes, rest] of (await readFile(report, "utf8")).matchAll(
    /<testcase ([^>]*?)(\/>|>.*?<\/testcase>)/gs,
  )) {
    const [, className] = /classname="([^"]*)"/.exec(attributes);
    const [, name] = / name="([^"]*)"/.exec(attributes);
    cases.push({
      name: `${className.split(".").at(-1)} ${name}`,
      failed: /<(failure|error|skipped)\b/.test(rest),
    });
  }
  return { cases, output };
}

const suites = {
  "durable-streams 0.1.0, its own tests": await pytest("own", [
    "-m",
    "integration",
    path.join(installed, "source/packages/client-py/tests"),
  ]),
  "durable-streams 0.1.0, ours": await pytest("ours", ["tests/clients/python"]),
};

describe.each(Object.entries(suites))("%s", (_, { cases, output }) => {
  test("ran", () => expect(cases.length, output).toBeGreaterThan(0));
  for (const { name, failed } of cases) test(name, () => expect(failed, output).toBe(false));
});
