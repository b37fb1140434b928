// What the page does without the tokens that the server wants.

import { expect, test } from "vitest";
import { modes, untilListed, useAdmin } from "./admin.mjs";

const admin = useAdmin({ ...modes["with tokens"], session: {} });

test("the page asks for the token, shows a refusal, and works with the right one", async () => {
  const page = await admin.open("/admin");
  const notice = page.getByRole("alert");
  await notice.getByText("The admin API needs a token").waitFor();
  const enter = async (token) => {
    await page.getByRole("main").getByRole("button", { name: "Enter token" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Admin token").fill(token);
    await dialog.getByRole("button", { name: "Use" }).click();
  };
  await enter("wrong");
  await notice.getByText("The admin API needs a token").waitFor();
  await enter("operator");
  await page.getByText("healthy", { exact: true }).waitFor();
  expect(await page.getByRole("main").getByRole("alert").count()).toBe(0);
  const kept = await page.evaluate(() => [
    JSON.stringify(Object.values(sessionStorage)),
    JSON.stringify(Object.values(localStorage)),
    document.cookie,
  ]);
  expect(kept).toEqual(['["operator"]', "[]", ""]);
});

test("reading content asks for the token of streams", async () => {
  const name = await admin.create("application/json", '["content"]');
  const page = await admin.open(`/admin/streams/${name}`, {
    sessionStorage: { "durable-streams/admin-token": "operator" },
  });
  await page.getByText("Reading streams needs a token").waitFor();
  await page.getByRole("main").getByRole("button", { name: "Enter token" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Token for reading streams").fill("writer");
  await dialog.getByRole("button", { name: "Use" }).click();
  await untilListed(page, '"content"');
});

test("the end of a sign-in at a proxy is told, and a reload is proposed", async () => {
  const page = await admin.open("/admin", {
    sessionStorage: { "durable-streams/admin-token": "operator" },
  });
  await page.getByText("healthy", { exact: true }).waitFor();
  // So does Cloudflare Access answer requests without a session.
  await page.route("**/admin/api/**", (route) =>
    route.fulfill({ status: 302, headers: { Location: "https://login.example/" } }),
  );
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.getByText("Reload the page to sign in again.").first().waitFor();
});

test("tokens are forgotten when the user asks for it", async () => {
  const page = await admin.open("/admin", {
    sessionStorage: { "durable-streams/admin-token": "operator" },
  });
  await page.getByText("healthy", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Token is set" }).click();
  await page.getByRole("button", { name: "Forget both" }).click();
  await page.getByText("The admin API needs a token").first().waitFor();
  expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
});
