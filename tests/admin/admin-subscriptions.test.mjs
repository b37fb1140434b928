// The pages about subscriptions, with and without tokens.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Receiver } from "../harness/receiver.mjs";
import { freshName } from "../harness/stream.mjs";
import { modes, patience, useAdmin } from "./admin.mjs";

const json = { "Content-Type": "application/json" };

describe.each(Object.entries(modes))("%s", (_, mode) => {
  const admin = useAdmin(mode, { WEBHOOK_ALLOW_LOOPBACK: "1" });
  /** @type {Receiver} */
  let receiver;
  beforeAll(async () => {
    receiver = await Receiver.start();
  });
  afterAll(() => receiver.stop());

  const subscribe = (id, body) =>
    admin.send("PUT", `__ds/subscriptions/${id}`, { headers: json, body: JSON.stringify(body) });
  const webhook = (pattern, more = {}) => ({
    type: "webhook",
    pattern,
    webhook: { url: `${receiver.url}/hook` },
    ...more,
  });
  const fact = (page, label) =>
    page.locator(".stat").filter({ hasText: label }).locator(".figure").textContent();

  test("without subscriptions the list says how to make one", async () => {
    const page = await admin.open("/admin");
    await page.getByRole("link", { name: "Subscriptions", exact: true }).click();
    await page.getByRole("heading", { name: "Subscriptions", level: 1 }).waitFor();
    await page.getByText("No subscriptions yet").waitFor();
    expect(new URL(page.url()).pathname).toBe("/admin/subscriptions");
  });

  test("a failing webhook is shown, retried and delivered", async () => {
    const id = freshName("hook");
    receiver.answer = () => ({ status: 500, body: "no" });
    const more = { description: "prints <b>orders</b>", lease_ttl_ms: 600_000 };
    await subscribe(id, webhook(`${id}/*`, more));
    const stream = await admin.create("application/json", "[1,2]", `${id}/a`);
    // After five failures the pause is longer than the test needs until it asks for a retry.
    await receiver.until(id, 5, 60_000);
    const page = await admin.open("/admin/subscriptions");
    await page.getByRole("main").getByRole("link", { name: id }).click();
    await page.getByRole("heading", { name: id, level: 1 }).waitFor();
    const main = page.getByRole("main");
    await main.getByText("the receiver answered 500").waitFor();
    await main.getByText("waking", { exact: true }).waitFor();
    await main.getByText("failed", { exact: true }).waitFor();
    await main.getByText("prints <b>orders</b>").waitFor();
    await main.getByText(`${receiver.url}/hook`, { exact: true }).waitFor();
    expect(await fact(page, "Follows")).toBe(`${id}/*`);
    expect(await fact(page, "Generation")).toBe("1");
    expect(Number(await fact(page, "Failures"))).toBeGreaterThanOrEqual(3);
    const row = page.getByRole("row").filter({ hasText: stream });
    expect(await row.getByRole("cell").allTextContents()).toEqual([
      stream,
      "by pattern",
      "start",
      "0_2",
      "pending",
    ]);

    receiver.answer = () => ({ status: 200, body: '{"done":true}' });
    await page.getByRole("button", { name: "Retry now" }).click();
    await page.getByText("The next attempt has begun.").waitFor();
    await main.getByText("idle", { exact: true }).waitFor();
    await row.getByText("up to date").waitFor();
    expect(await fact(page, "Failures")).toBe("0");
    expect(await fact(page, "Next attempt")).toBe("none is due");
    await page.getByRole("button", { name: "Retry now" }).click();
    await page.getByText("No delivery waits for an attempt.").waitFor();

    await row.getByRole("link", { name: stream }).click();
    await page.getByRole("heading", { name: stream, level: 1 }).waitFor();
  });

  test("a claimed wake shows its worker and its lease", async () => {
    const id = `${freshName("pull")}%2Fb`;
    const [source, wakes] = [await admin.create(), await admin.create()];
    await subscribe(id, { type: "pull-wake", streams: [source], wake_stream: wakes });
    const page = await admin.open(`/admin/subscriptions/${id}`);
    const main = page.getByRole("main");
    await main.getByText("idle", { exact: true }).waitFor();
    expect(await fact(page, "Wake stream")).toBe(wakes);
    expect(await fact(page, "Follows")).toBe("named streams");
    expect(await fact(page, "Lease ends")).toBe("no lease");
    await admin.append(source, "1");
    await main.getByText("waking", { exact: true }).waitFor();
    await admin.send("POST", `__ds/subscriptions/${id}/claim`, {
      headers: json,
      body: '{"worker":"w-1"}',
    });
    await main.getByText("live", { exact: true }).waitFor();
    expect(await fact(page, "Worker")).toBe("w-1");
    expect(await fact(page, "Lease ends")).toMatch(/^in \d+ s$/);
  });

  test("a subscription is deleted after a question", async () => {
    const id = freshName("doomed");
    await subscribe(id, webhook(`${id}/*`));
    const page = await admin.open(`/admin/subscriptions/${id}`);
    const dialog = page.getByRole("dialog");
    await page.getByRole("button", { name: "Delete" }).click();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await admin.send("GET", `__ds/subscriptions/${id}`);
    await page.getByRole("button", { name: "Delete" }).click();
    await dialog.getByRole("button", { name: "Delete subscription" }).click();
    await page.getByRole("heading", { name: "Subscriptions", level: 1 }).waitFor();
    await expect(admin.send("GET", `__ds/subscriptions/${id}`)).rejects.toThrow("404");
    await page.goto(`${admin.server.url}/admin/subscriptions/${id}`);
    await page.getByText("There is no subscription of this id").waitFor();

    const other = freshName("doomed");
    await subscribe(other, webhook(`${other}/*`));
    await page.getByRole("link", { name: "All subscriptions" }).click();
    const row = page.getByRole("row").filter({ hasText: other });
    await row.getByRole("button", { name: `Delete ${other}` }).click();
    await dialog.getByRole("button", { name: "Delete subscription" }).click();
    await row.waitFor({ state: "detached" });
    await expect(admin.send("GET", `__ds/subscriptions/${other}`)).rejects.toThrow("404");
  });

  test("the list and the streams of a subscription have pages", async () => {
    const root = freshName("many");
    const ids = [...Array(101).keys()].map((at) => `${root}-${String(at).padStart(3, "0")}`);
    const streams = ids.map((id) => `${id}/a`);
    for (const id of ids) await subscribe(id, { ...webhook(undefined), streams: [`${id}/a`] });
    const page = await admin.open("/admin/subscriptions");
    const main = page.getByRole("main");
    const listed = async () => {
      const found = [];
      for (;;) {
        await page.getByRole("row").nth(1).waitFor();
        const links = await main.getByRole("table").getByRole("link").allTextContents();
        expect(links.length).toBeLessThanOrEqual(100);
        found.push(...links.filter((text) => text.startsWith(root)));
        const next = page.getByRole("button", { name: "Next page" });
        if (await next.isDisabled()) return found;
        const url = page.url();
        await next.click();
        await expect.poll(() => page.url(), patience).not.toBe(url);
        await expect
          .poll(() => main.getByRole("table").getByRole("link").allTextContents(), patience)
          .not.toEqual(links);
      }
    };
    expect(await listed()).toEqual(ids);
    await page.getByRole("button", { name: "First page" }).click();
    await main.getByRole("link", { name: ids[0] }).waitFor();

    await subscribe(`${root}-all`, { ...webhook(undefined), streams });
    await page.goto(`${admin.server.url}/admin/subscriptions/${root}-all`);
    expect(await listed()).toEqual(streams);
    await page.goBack();
    await main.getByRole("link", { name: streams[0] }).waitFor();
  });

  test("a failure of the server is shown with its reason", async () => {
    const page = await admin.open("/admin/subscriptions?after=%C3%A4");
    await page.getByRole("alert").getByText("must be the nextCursor of a page").waitFor();
    admin.problems.splice(0);
  });
});
