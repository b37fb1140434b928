// The pages about sessions, with and without tokens.

import { describe, expect, test } from "vitest";
import { eventually, request } from "../harness/http.mjs";
import { modes, patience, useAdmin } from "./admin.mjs";

const operator = { Authorization: "Bearer operator" };

describe.each(Object.entries(modes))("%s", (_, mode) => {
  const admin = useAdmin(mode);

  const fact = (page, label) =>
    page.locator(".stat").filter({ hasText: label }).locator(".figure").textContent();
  const ofOperator = async (path) =>
    (await request(admin.server.url, `/admin/api${path}`, { headers: operator })).json();
  /** Waits until the list of the API has these sessions. */
  const untilKnown = (ids) =>
    eventually("the list has all", async () => {
      const { sessions } = await ofOperator("/sessions?limit=1000");
      const found = sessions.map(({ sessionId }) => sessionId);
      return ids.every((id) => found.includes(id));
    });
  const open = async (id) => {
    const page = await admin.open(`/admin/sessions/${id}`);
    await page.getByRole("heading", { name: id, level: 1 }).waitFor();
    return page;
  };

  test("without sessions the list says how to make one", async () => {
    const page = await admin.open("/admin");
    await page.getByRole("link", { name: "Sessions", exact: true }).click();
    await page.getByRole("heading", { name: "Sessions", level: 1 }).waitFor();
    await page.getByText("No sessions yet").waitFor();
    expect(new URL(page.url()).pathname).toBe("/admin/sessions");
  });

  test("a session shows what it has, and leads to its streams", async () => {
    const [first, second] = [await admin.create("application/json", "[1,2]"), await admin.create()];
    const id = await admin.createSession(first, second);
    await admin.append(first, "3");
    await untilKnown([id]);
    const page = await admin.open("/admin/sessions");
    const listed = page.getByRole("row").filter({ hasText: id });
    await listed.getByText("in 24 h").waitFor();
    expect(await listed.getByRole("cell").nth(4).textContent()).toBe("2");
    await listed.getByRole("link", { name: id }).click();
    await page.getByRole("heading", { name: id, level: 1 }).waitFor();
    const section = page.getByRole("navigation", { name: "Pages" }).getByText("Sessions");
    expect(await section.getAttribute("aria-current")).toBe("true");
    const row = page.getByRole("row").filter({ hasText: first });
    await row.getByText("0_3").waitFor();
    expect(await row.getByRole("cell").allTextContents()).toEqual([
      first,
      "0_0",
      "0_3",
      "follows",
    ]);
    expect(await fact(page, "Ends")).toBe("in 24 h");
    expect(await fact(page, "Subscribed")).toBe("2");
    expect(Number(await fact(page, "Envelopes"))).toBeGreaterThan(0);
    expect(await fact(page, "Live readers")).toBe("0");

    await page.getByRole("link", { name: "Open stream" }).click();
    await page.getByRole("heading", { name: `subscriptions/${id}`, level: 1 }).waitFor();
    await page.getByRole("option").filter({ hasText: first }).first().waitFor();
    await page.getByText("The stream of a session is written by the server alone.").waitFor();
    expect(await page.getByRole("button", { name: "Delete" }).count()).toBe(0);
    await page.getByRole("main").getByRole("link", { name: "Session", exact: true }).click();
    await page.getByRole("heading", { name: id, level: 1 }).waitFor();

    await page.getByRole("main").getByRole("link", { name: first }).click();
    await page.getByRole("heading", { name: first, level: 1 }).waitFor();
    expect(await fact(page, "Sessions")).toBe("1");
  });

  test("a session is deleted after a question", async () => {
    const [id, other] = [await admin.createSession(), await admin.createSession()];
    await untilKnown([id, other]);
    const page = await open(id);
    await page.getByText("It follows no stream").waitFor();
    const dialog = page.getByRole("dialog");
    await page.getByRole("button", { name: "Delete" }).click();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    expect((await ofOperator(`/sessions/${id}`)).sessionId).toBe(id);
    await page.getByRole("button", { name: "Delete" }).click();
    await dialog.getByRole("button", { name: "Delete session" }).click();
    await page.getByRole("heading", { name: "Sessions", level: 1 }).waitFor();
    expect((await ofOperator(`/sessions/${id}`)).error.code).toBe("session_not_found");
    // On Cloudflare the list can still have it.
    admin.problems.splice(0);

    const row = page.getByRole("row").filter({ hasText: other });
    await row.getByRole("button", { name: `Delete ${other}` }).click();
    await dialog.getByRole("button", { name: "Delete session" }).click();
    await row.waitFor({ state: "detached" });
    expect((await ofOperator(`/sessions/${other}`)).error.code).toBe("session_not_found");
    await page.goto(`${admin.server.url}/admin/sessions/${id}`);
    await page.getByText("There is no session of this id").waitFor();
    await page.getByRole("link", { name: "All sessions" }).click();
    await page.getByRole("heading", { name: "Sessions", level: 1 }).waitFor();
    admin.problems.splice(0);
  });

  test("the list grows by fifty, and the streams of a session have pages", async () => {
    const ids = [];
    for (let at = 0; at < 51; at += 1) ids.push(await admin.createSession());
    await untilKnown(ids);
    const page = await admin.open("/admin/sessions");
    const main = page.getByRole("main");
    const names = () => main.getByRole("table").getByRole("link").allTextContents();
    const more = page.getByRole("button", { name: "Show more" });
    await more.waitFor();
    // Those that the index still remembers as deleted take places, too.
    expect((await names()).length).toBeLessThanOrEqual(50);
    await more.click();
    await more.waitFor({ state: "detached" });
    const found = await names();
    expect(found).toEqual([...found].sort());
    for (const id of ids) expect(found).toContain(id);

    const streams = [];
    for (let at = 0; at < 101; at += 1) streams.push(await admin.create());
    streams.sort();
    const many = await open(await admin.createSession(...streams));
    const table = many.getByRole("main").getByRole("table").getByRole("link");
    await expect.poll(() => table.allTextContents(), patience).toEqual(streams.slice(0, 100));
    await many.getByRole("button", { name: "Next page" }).click();
    await expect.poll(() => table.allTextContents(), patience).toEqual(streams.slice(100));
    await many.getByRole("button", { name: "First page" }).click();
    await expect.poll(() => table.allTextContents(), patience).toEqual(streams.slice(0, 100));
  });

  test("a failure of the server is shown with its reason", async () => {
    const page = await admin.open("/admin");
    await page.route("**/admin/api/sessions?*", (route) =>
      route.fulfill({ status: 503, json: { error: { code: "unavailable", message: "not now" } } }),
    );
    await page.getByRole("link", { name: "Sessions", exact: true }).click();
    await page.getByRole("alert").getByText("not now").waitFor();
    await page.unroute("**/admin/api/sessions?*");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByRole("alert").waitFor({ state: "detached" });
    admin.problems.splice(0);
  });
});

describe("sessions that end soon", () => {
  const admin = useAdmin(modes["without a token"], { SESSION_TTL_SECONDS: "3000" });

  test("have a warning in the list and on their page", async () => {
    const id = await admin.createSession();
    const page = await admin.open(`/admin/sessions/${id}`);
    await page.locator(".stat .badge.warn").getByText("in 50 min").waitFor();
    await eventually("the list has it", async () => {
      const { sessions } = (await request(admin.server.url, "/admin/api/sessions")).json();
      return sessions.some(({ sessionId }) => sessionId === id);
    });
    await page.getByRole("link", { name: "Sessions", exact: true }).click();
    const row = page.getByRole("row").filter({ hasText: id });
    await row.locator(".badge.warn").getByText("in 50 min").waitFor();
  });
});
