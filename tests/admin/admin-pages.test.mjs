// Each page and each action of the admin page, with and without tokens.

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { shell } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";
import { modes, patience, rows, untilListed, useAdmin } from "./admin.mjs";

const shellCommand = promisify(execFile);

describe.each(Object.entries(modes))("%s", (_, mode) => {
  const admin = useAdmin(mode);

  test("the overview shows health, totals and the busiest streams", async () => {
    const name = await admin.create();
    await admin.append(name, "[1,2,3]");
    const page = await admin.open("/admin");
    await page.getByText("healthy", { exact: true }).waitFor();
    await page.getByRole("heading", { name: "Services" }).waitFor();
    expect(await page.locator(".services li").count()).toBeGreaterThan(0);
    if (shell === "server") {
      await page.getByRole("main").getByRole("link", { name }).waitFor();
      const row = page.getByRole("row").filter({ hasText: name });
      expect(await row.getByRole("cell").nth(1).textContent()).toBe("3");
    } else {
      // Nobody counts all streams there. The page says so and shows the rest.
      await page.getByText("–").first().waitFor();
    }
  });

  test("a stream is created, listed, opened and deleted", async () => {
    const name = freshName("a/b");
    const page = await admin.open("/admin/streams");
    await page.getByRole("main").getByRole("button", { name: "New stream" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill(name);
    await dialog.getByLabel("Content type").fill("text/plain");
    await dialog.getByLabel("Time to live").fill("3600");
    await dialog.getByRole("button", { name: "Create stream" }).click();
    await page.getByRole("heading", { name, level: 1 }).waitFor();
    expect(new URL(page.url()).pathname).toBe(`/admin/streams/${name}`);
    await page.getByText("after the last use").waitFor();
    expect((await admin.send("HEAD", name)).headers["content-type"]).toBe("text/plain");

    await page.getByRole("link", { name: "Streams", exact: true }).click();
    await page.getByLabel("Names that begin with").fill(name);
    const row = page.getByRole("row").filter({ hasText: name });
    await row.getByText("text/plain").waitFor();
    await row.getByRole("button", { name: `Delete ${name}` }).click();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    expect(await row.count()).toBe(1);
    await row.getByRole("button", { name: `Delete ${name}` }).click();
    await dialog.getByRole("button", { name: "Delete stream" }).click();
    await page.getByText("No stream has this prefix").waitFor();
    await expect(admin.send("HEAD", name)).rejects.toThrow("404");
  });

  test("the reason of a refused creation is shown", async () => {
    const page = await admin.open("/admin/streams");
    await page.getByRole("main").getByRole("button", { name: "New stream" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill("__ds/x");
    await dialog.getByRole("button", { name: "Create stream" }).click();
    await dialog.getByRole("alert").waitFor();
    expect(await dialog.getByRole("alert").textContent()).not.toBe("");
    expect(await dialog.getByRole("button", { name: "Create stream" }).isEnabled()).toBe(true);
  });

  test("messages are appended under a producer's numbers and appear at once", async () => {
    const name = await admin.create();
    const page = await admin.open(`/admin/streams/${name}`);
    const box = page.getByLabel("Message to append");
    await page.getByText("Nothing here yet").waitFor();
    await box.fill('{"number": 12345678901234567890.10, "a": 1, "a": 2}');
    await box.press("Enter");
    await untilListed(page, '{"number": 12345678901234567890.10, "a": 1, "a": 2}');
    await box.fill("not JSON");
    await box.press("Enter");
    await page.getByRole("alert").filter({ hasText: "JSON" }).waitFor();
    await box.fill("[1, 2]");
    await page.getByRole("button", { name: "Append", exact: true }).click();
    await untilListed(page, "2");
    expect(await admin.messages(name)).toHaveLength(3);
    await page.getByText("next number 2").waitFor();

    await page.getByRole("option").first().click();
    const detail = page.getByLabel("Selected message");
    expect(await detail.locator(".tree .key").allTextContents()).toEqual(["number", "a", "a"]);
    expect(await detail.locator(".tree .number").first().textContent()).toBe(
      "12345678901234567890.10",
    );
    await detail.getByRole("button", { name: "As sent" }).click();
    expect(await detail.locator("pre").textContent()).toBe(
      '{"number": 12345678901234567890.10, "a": 1, "a": 2}',
    );

    await page.getByRole("link", { name: "Producers" }).click();
    const row = page.getByRole("row").filter({ hasText: /admin-ui-[a-z0-9]{8}/ });
    await row.waitFor();
    expect(await row.getByRole("cell").nth(2).textContent()).toBe("1");
  });

  test("text is shown by lines, and bytes as hexadecimal digits", async () => {
    const text = await admin.create("text/plain", "one\ntwo ");
    const page = await admin.open(`/admin/streams/${text}`);
    await untilListed(page, "two");
    await page.getByLabel("Message to append").fill("and more");
    await page.getByRole("button", { name: "Append", exact: true }).click();
    await untilListed(page, "two and more");
    expect(await rows(page)).toHaveLength(2);
    await page.getByRole("button", { name: "Hex" }).click();
    await untilListed(page, "6f 6e 65 0a 74 77 6f 20  61 6e 64 20 6d 6f 72 65");

    const bytes = await admin.create("application/octet-stream", Buffer.from([0, 1, 255]));
    await page.goto(`${admin.server.url}/admin/streams/${bytes}`);
    await untilListed(page, "00 01 ff");
    await page.getByLabel("Message to append").fill("7a7");
    await page.getByRole("button", { name: "Append", exact: true }).click();
    await page.getByRole("alert").waitFor();
    await page.getByLabel("Message to append").fill("7a 7B");
    await page.getByRole("button", { name: "Append", exact: true }).click();
    await untilListed(page, "00 01 ff 7a 7b");
    const stored = await admin.send("GET", bytes, { query: "?offset=-1" });
    expect([...stored.body]).toEqual([0, 1, 255, 0x7a, 0x7b]);
  });

  test("the list follows, pauses and goes to an offset", async () => {
    const name = await admin.create();
    await admin.append(name, JSON.stringify([...Array(200).keys()].map((n) => `message ${n}.`)));
    const page = await admin.open(`/admin/streams/${name}`);
    await untilListed(page, '"message 199."');
    await admin.append(name, '"while it follows"');
    await untilListed(page, '"while it follows"');
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByText("paused").waitFor();
    await admin.append(name, '"while it is paused"');
    await page.waitForTimeout(500);
    expect(await page.getByText("while it is paused").count()).toBe(0);
    await page.getByRole("button", { name: "Follow" }).click();
    await untilListed(page, '"while it is paused"');

    await page.getByLabel("Offset to go to").fill("0_120");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await untilListed(page, '"message 120."');
    expect((await rows(page))[0]).toContain("message 120.");
    expect((await rows(page))[0]).toContain("0_120");
    await page.getByRole("button", { name: "Start", exact: true }).click();
    await untilListed(page, '"message 0."');
    await page.getByRole("button", { name: "Tail", exact: true }).click();
    await untilListed(page, '"while it is paused"');
    await page.getByLabel("Offset to go to").fill("here");
    await page.getByRole("button", { name: "Go", exact: true }).click();
    await page.getByRole("alert").filter({ hasText: "segment_position" }).waitFor();
  });

  test("a segment is sealed, listed, and its content stays", async () => {
    const name = await admin.create("application/json", "[1,2,3]");
    const page = await admin.open(`/admin/streams/${name}?tab=segments`);
    await page.getByText("No sealed segments").waitFor();
    await page.getByRole("button", { name: "Seal now" }).click();
    await page.getByText("The open segment is sealed.").waitFor();
    await page.getByRole("cell", { name: /^0_0 – 0_3$/ }).waitFor();
    await page.getByRole("cell", { name: /\/0{16}-1$/ }).waitFor();
    await page.getByRole("button", { name: "Seal now" }).click();
    await page.getByText("The open segment is empty.").waitFor();
    await admin.append(name, "4");
    await page.getByRole("link", { name: "Messages" }).click();
    await untilListed(page, "4");
    expect(await rows(page)).toEqual(["0_01", "0_12", "0_23", "1_04"]);
  });

  test("the alarm and the outbox are shown", async () => {
    const name = await admin.create("application/json", "[1]");
    const page = await admin.open(`/admin/streams/${name}?tab=internals`);
    await page.getByRole("heading", { name: "Alarm" }).waitFor();
    await page.getByText("old enough to be sealed").first().waitFor();
    await page.getByText("Nothing is left to do").waitFor();
  });

  test("a stream is closed, and then takes no appends", async () => {
    const name = await admin.create("application/json", "[1]");
    const page = await admin.open(`/admin/streams/${name}`);
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Close stream" }).click();
    await page.getByText("It takes no more appends.").waitFor();
    await page.getByText("end of a closed stream").waitFor();
    expect((await admin.send("HEAD", name)).closed).toBe("true");
  });

  test("a stream is forked before a message", async () => {
    const name = await admin.create("application/json", "[1,2,3]");
    const page = await admin.open(`/admin/streams/${name}`);
    await untilListed(page, "3");
    await page.getByRole("option").nth(2).click();
    await page.getByRole("button", { name: "Fork before this message" }).click();
    const fork = freshName("fork");
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill(fork);
    await dialog.getByRole("button", { name: "Create fork" }).click();
    await page.getByRole("heading", { name: fork, level: 1 }).waitFor();
    await page.getByRole("main").getByRole("link", { name }).waitFor();
    expect(await admin.messages(fork)).toEqual([1, 2]);
    await untilListed(page, "2");
    await page.getByRole("main").getByRole("link", { name }).click();
    await page.getByText("Forks", { exact: true }).waitFor();
  });

  test("a command of the page does in a shell what it says", async () => {
    const name = await admin.create("application/json", '["it\'s"]');
    const page = await admin.open(`/admin/streams/${name}`);
    const run = async (command) => {
      const env = { PATH: process.env.PATH, AUTH_TOKEN: "writer", ADMIN_TOKEN: "operator" };
      return (await shellCommand("bash", ["-c", command], { env })).stdout;
    };
    await page.getByLabel("Message to append").fill(`"don't 'quote' $HOME \`id\`"`);
    await page.getByRole("button", { name: "Copy this append as curl" }).click();
    await run(await page.getByLabel("Append with the same number").last().textContent());
    expect(await admin.messages(name)).toEqual(["it's", "don't 'quote' $HOME `id`"]);
    await page.getByRole("button", { name: "Close dialog" }).click();

    await page.getByRole("button", { name: "Copy as curl", exact: true }).click();
    const command = await page.locator("pre[aria-label='Read everything']").textContent();
    expect(command).not.toContain("writer");
    expect(JSON.parse(await run(command))).toHaveLength(2);
    const properties = await page.locator("pre[aria-label='Properties']").textContent();
    expect(JSON.parse(await run(properties)).messageCount).toBe(2);
  });

  test("a name that does not exist can be created", async () => {
    const name = freshName("missing");
    const page = await admin.open(`/admin/streams/${name}`);
    await page.getByText("There is no stream of this name").waitFor();
    await page.getByRole("main").getByRole("button", { name: "New stream" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Create stream" }).click();
    await page.getByText("Nothing here yet").waitFor();
    await admin.send("HEAD", name);
  });

  test("the keyboard selects streams and messages", async () => {
    const name = await admin.create("application/json", '["first","second","third"]');
    const page = await admin.open("/admin/streams");
    await page.getByRole("heading", { name: "Streams", level: 1 }).waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type(name);
    await page.keyboard.press("Enter");
    await untilListed(page, '"third"');
    await page.getByRole("listbox").focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowDown");
    const detail = page.getByLabel("Selected message");
    await expect.poll(() => detail.locator(".tree").textContent(), patience).toBe('"second"');
    await page.keyboard.press("End");
    await expect.poll(() => detail.locator(".tree").textContent(), patience).toBe('"third"');
  });
});
