// Shows what the servers of a failed test have written.

import { afterEach } from "vitest";
import { outputs } from "./output.mjs";

afterEach(({ task }) => {
  if (task.result?.state !== "fail") return;
  for (const [url, output] of outputs)
    console.error(`"${task.name}" failed. ${url} has written:\n${output()}`);
});
