// Headless Chromium: Debian's, without the parts that only a window needs, or the program that
// CHROMIUM names. `cargo xtask test` installs it if it has the rights.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

export const executablePath = process.env.CHROMIUM || "/usr/bin/chromium-headless-shell";
const args = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Opens a browser. With `profile`, opens a context that keeps its data in that directory. */
export async function openChromium(profile) {
  if (!existsSync(executablePath))
    throw new Error(
      `there is no ${executablePath}: apt-get install chromium-headless-shell, or name another in CHROMIUM`,
    );
  const options = { executablePath, args, headless: true };
  return profile ? chromium.launchPersistentContext(profile, options) : chromium.launch(options);
}
