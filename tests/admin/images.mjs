// Makes the pictures of the documentation: `node tests/admin/images.mjs <directory>`.

import { mkdir, stat } from "node:fs/promises";
import path from "node:path";
import { Browser } from "../harness/browser.mjs";
import { request } from "../harness/http.mjs";
import { Receiver } from "../harness/receiver.mjs";
import { startServer } from "../harness/server.mjs";

const bytesMax = 200_000;
const directory = process.argv[2];
await mkdir(directory, { recursive: true });

const server = await startServer({ cold: "directory", env: { WEBHOOK_ALLOW_LOOPBACK: "1" } });
const browser = await Browser.start();
const receiver = await Receiver.start();

async function ask(method, path, contentType, body) {
  const headers = { "Content-Type": contentType };
  const answer = await request(server.url, path, { method, headers, body });
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
  return answer;
}

async function send(method, name, contentType, body) {
  await ask(method, `/v1/stream/${name}`, contentType, body);
}

const json = "application/json";
const names = ["ada", "grace", "linus", "barbara", "ken"];
const sentences = [
  "The build is green again.",
  "Can you look at the last offset?",
  "I will restart the reader.",
  "It resumed where it stopped.",
  "Let us ship it.",
];

function message(number) {
  return {
    id: number,
    from: names[number % names.length],
    text: sentences[(number * 7) % sentences.length],
    client: { name: "web", version: [2, 14, number % 10] },
    edited: number % 17 === 0,
  };
}

async function fill(name, count) {
  await send("PUT", name, json);
  for (let first = 0; first < count; first += 200) {
    const size = Math.min(200, count - first);
    const messages = Array.from({ length: size }, (_, index) => message(first + index));
    await send("POST", name, json, JSON.stringify(messages));
  }
}

/**
 * @param {string} file
 * @param {string} where
 * @param {(page: import("playwright-core").Page) => Promise<void>} prepare
 * @param {import("../harness/browser.mjs").PageOptions} [options]
 */
async function picture(file, where, prepare, options = {}) {
  const viewport = { width: 1200, height: 800 };
  const { page } = await browser.open(server.url + where, { viewport, ...options });
  await prepare(page);
  const target = path.join(directory, file);
  await page.screenshot({ path: target });
  await browser.closePages();
  const { size } = await stat(target);
  console.log(`${file}: ${size} bytes`);
  if (size > bytesMax) throw new Error(`${file} is larger than ${bytesMax} bytes`);
}

try {
  await fill("chat/room-17", 2_400);
  await fill("chat/room-4", 1_100);
  await fill("chat/lobby", 320);
  await fill("agents/run-8f21/log", 760);
  await fill("boards/roadmap", 90);
  await send("PUT", "jobs/output", "text/plain", "step 1 is done\nstep 2 is done\n");
  await send("PUT", "sensors/raw", "application/octet-stream", new Uint8Array(64));
  await request(server.url, "/admin/api/streams/chat/room-17/seal", { method: "POST" });
  await send("POST", "chat/room-17", json, JSON.stringify([...Array(60).keys()].map(message)));

  await picture("admin-overview.png", "/admin", async (page) => {
    await page.getByRole("main").getByRole("link", { name: "chat/room-17" }).waitFor();
    await page.locator(".services li").first().waitFor();
  });
  const select = async (page) => {
    const row = page.getByRole("option").filter({ hasText: '"id":55' });
    await row.click();
    await page.locator(".sparkline canvas").waitFor();
  };
  await picture("admin-stream.png", "/admin/streams/chat/room-17", select);
  await picture("admin-stream-dark.png", "/admin/streams/chat/room-17", select, {
    colorScheme: "dark",
  });

  const isPaid = ({ path, has_pending: isPending }) => isPending && path === "orders/paid";
  receiver.answer = ({ body }) =>
    body.streams.some(isPaid) ? { status: 503, body: "" } : { status: 200, body: '{"done":true}' };
  const webhook = { url: `${receiver.url}/orders` };
  const subscription = JSON.stringify({
    type: "webhook",
    pattern: "orders/*",
    webhook,
    description: "Prints an invoice for each order",
  });
  await send("PUT", "__ds/subscriptions/invoices", json, subscription);
  for (const name of ["orders/open", "orders/paid", "orders/sent"]) {
    await send("PUT", name, json, JSON.stringify([...Array(12).keys()].map(message)));
  }
  await receiver.until("invoices", 3, 20_000);
  await picture("admin-subscription.png", "/admin/subscriptions/invoices", async (page) => {
    await page.getByText("the receiver answered 503").waitFor();
    await page.getByRole("row").filter({ hasText: "orders/paid" }).waitFor();
  });

  const { sessionId } = (await ask("POST", "/v1/sessions", json)).json();
  for (const streamId of ["chat/room-17", "chat/room-4", "agents/run-8f21/log"]) {
    await ask("POST", "/v1/subscriptions", json, JSON.stringify({ sessionId, streamId }));
    await send("POST", streamId, json, JSON.stringify(message(7)));
  }
  await picture("admin-session.png", `/admin/sessions/${sessionId}`, async (page) => {
    await page.getByRole("row").filter({ hasText: "chat/room-4" }).waitFor();
  });
} finally {
  await receiver.stop();
  await browser.close();
  await server.stop();
}
