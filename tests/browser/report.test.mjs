// The report of a simulation (`cargo sim report`): the page runs the simulator in wasm, and must
// find what the native simulator found.

import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openChromium } from "../harness/chromium.mjs";
import { nativeRun, urlOf } from "./pages.mjs";

const patience = { timeout: 15_000 };

const directory = process.env.BROWSER_PAGES ?? "target/browser";
let browser;

beforeAll(async () => {
  browser = await openChromium();
});
afterAll(() => browser?.close());

/** Opens a report. Everything that goes wrong in the page, or leaves it, fails the test. */
async function open(name, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith("file:")) problems.push(`asks for ${request.url()}`);
  });
  await page.goto(urlOf(directory, name) + (options.link ?? ""));
  await page.locator("body[data-run]").waitFor();
  return { page, problems, close: () => context.close() };
}

const textOf = (page, id) => page.locator(`#${id}`).innerText();
const eventOf = async (page) => Number(/event (\d+) of/.exec(await textOf(page, "at"))[1]);

describe.each(["clean", "forks", "planted"])("the report of the %s run", (name) => {
  test("shows the hash of the native run, computed here", async () => {
    const { page, problems, close } = await open(name);
    const native = await nativeRun(directory, name);
    expect(native.hash).toMatch(/^[0-9a-f]{16}$/);
    expect(await textOf(page, "hash-here")).toBe(native.hash);
    expect(await textOf(page, "hash-native")).toBe(native.hash);
    expect(await page.getAttribute("body", "data-run")).toBe("same");
    expect(await textOf(page, "facts")).toContain(`${native.events} events`);
    expect(problems).toEqual([]);
    await close();
  });

  test("goes to every event, and shows its lines and a state", async () => {
    const { page, problems, close } = await open(name);
    await page.keyboard.press("Home");
    const visited = [await eventOf(page)];
    for (let step = 0; step < 40; step += 1) {
      await page.keyboard.press("ArrowRight");
      const event = await eventOf(page);
      if (event === visited.at(-1)) break;
      visited.push(event);
      expect(await page.locator("#lines li").count()).toBeGreaterThan(0);
      expect(await textOf(page, "detail-title")).toContain(`event ${event}`);
      expect(await page.locator("#state details").count()).toBeGreaterThan(0);
    }
    expect(visited.length).toBeGreaterThan(5);
    expect(visited).toEqual([...visited].sort((one, other) => one - other));
    await page.keyboard.press("ArrowLeft");
    expect(await eventOf(page)).toBe(visited.at(-2));
    expect(problems).toEqual([]);
    await close();
  });
});

test("a planted fault fails with the oracle, the values and the event of the native run", async () => {
  const { page, problems, close } = await open("planted");
  const native = await nativeRun(directory, "planted");
  expect(native.oracle).toBe("keys");
  expect(await textOf(page, "verdict")).toBe("an oracle fails");
  expect(await textOf(page, "oracle")).toBe(native.oracle);
  expect(await textOf(page, "expected")).toBe(native.expected);
  expect(await textOf(page, "actual")).toBe(native.actual);
  // The page opens where the oracle has failed.
  expect(String(await eventOf(page))).toBe(native.event);
  expect(await textOf(page, "lines")).toContain("keys: expected");
  await page.keyboard.press("Home");
  expect(String(await eventOf(page))).not.toBe(native.event);
  await page.click("#to-failure");
  expect(String(await eventOf(page))).toBe(native.event);
  expect(problems).toEqual([]);
  await close();
});

test("a run of many seeds leaves the page of the one that fails", async () => {
  const { page, problems, close } = await open("found");
  const native = await nativeRun(directory, "found");
  expect(await page.getAttribute("body", "data-run")).toBe("same");
  expect(await textOf(page, "name")).toMatch(/^Simulation of seed \d+$/);
  expect(await textOf(page, "oracle")).toBe(native.oracle);
  expect(await textOf(page, "actual")).toBe(native.actual);
  expect(String(await eventOf(page))).toBe(native.event);
  expect(problems).toEqual([]);
  await close();
});

test("a run without a failure shows none", async () => {
  const { page, close } = await open("clean");
  expect(await textOf(page, "verdict")).toBe("every oracle holds");
  expect(await page.locator("#failure").isHidden()).toBe(true);
  await close();
});

test("a page that names another hash says so", async () => {
  const { hash } = await nativeRun(directory, "clean");
  const html = await readFile(path.join(directory, "clean.html"), "utf8");
  const other = html.replace(`"${hash}"`, '"0000000000000000"');
  expect(other).not.toBe(html);
  await writeFile(path.join(directory, "other.html"), other);
  const { page, close } = await open("other");
  expect(await page.getAttribute("body", "data-run")).toBe("other");
  expect(await textOf(page, "same")).toContain("not the native run");
  await close();
});

test("the state shows what an event has changed", async () => {
  const { page, close } = await open("planted");
  await page.keyboard.press("Home");
  const changes = () => page.locator("#state .count.some").count();
  let changed = 0;
  for (let step = 0; step < 30 && changed === 0; step += 1) {
    await page.keyboard.press("ArrowRight");
    changed = await changes();
  }
  expect(changed).toBeGreaterThan(0);
  const marked = page.locator("#state .added, #state .removed, #state .changed");
  expect(await marked.count()).toBeGreaterThan(0);
  await page.check("#only-changes");
  expect(await page.locator("#state details").count()).toBe(changed);
  await close();
});

test("a link names an event, and the filter and a call select lines", async () => {
  const first = await open("clean");
  await first.page.keyboard.press("End");
  const end = await eventOf(first.page);
  await expect.poll(() => first.page.url(), patience).toContain(`#event=${end}`);
  await first.close();

  const { page, close } = await open("clean", { link: "#event=12" });
  expect(await eventOf(page)).toBe(12);
  const call = page.locator("#lines .call").first();
  const name = await call.innerText();
  await call.click();
  expect(await page.locator("#list .related").count()).toBeGreaterThan(0);
  for (const wanted of [name, "crashes"]) {
    await page.fill("#filter", wanted);
    const rows = await page.locator("#list .row .text").allInnerTexts();
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.every((text) => text.includes(wanted))).toBe(true);
    expect(await textOf(page, "shown")).toContain(`${rows.length} of `);
  }
  await close();
});

test("playing goes on by itself until it is paused", async () => {
  const { page, close } = await open("clean", { link: "#event=1" });
  const start = await eventOf(page);
  await page.keyboard.press(" ");
  await expect.poll(() => eventOf(page), patience).toBeGreaterThan(start + 1);
  await page.keyboard.press(" ");
  const paused = await eventOf(page);
  await page.waitForTimeout(700);
  expect(await eventOf(page)).toBe(paused);
  await close();
});

test("the list keeps few elements, and a narrow screen needs no sideways scrolling", async () => {
  const { page, close } = await open("clean", { viewport: { width: 375, height: 700 } });
  expect(await page.locator("#list .row").count()).toBeLessThan(80);
  const [scroll, client] = await page.evaluate(() => [
    document.documentElement.scrollWidth,
    document.documentElement.clientWidth,
  ]);
  expect(scroll).toBe(client);
  await close();
});
