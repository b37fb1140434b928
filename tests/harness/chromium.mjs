// Headless Chromium: Debian's, or the program that CHROMIUM names. `cargo xtask test` installs it
// if it has the rights.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
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

export async function openChromium() {
  if (!existsSync(executablePath))
    throw new Error(
      `there is no ${executablePath}: apt-get install chromium, or name another in CHROMIUM`,
    );
  return chromium.launch({ executablePath, args, headless: true });
}
