import { expect } from "vitest";

/** Every error has this form. */
export function expectRefusal(answer, status) {
  expect(answer.status, answer.text).toBe(status);
  expect(answer.headers["content-type"]).toMatch(/^application\/json\b/);
  const { error } = answer.json();
  // The protocol writes the codes of subscriptions in upper case.
  expect(error.code).toMatch(/^([a-z][a-z0-9_]*|[A-Z][A-Z_]*)$/);
  expect(error.message).toMatch(/^[^\r\n]+$/);
  expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
  return error;
}

/** A refusal for which any of several statuses is right. */
export function expectRefusalIn(answer, statuses) {
  expect(statuses, answer.text).toContain(answer.status);
  return expectRefusal(answer, answer.status);
}

/** The stream has exactly this text and an unchanged tail. */
export async function expectText(stream, text) {
  expect((await stream.bytes()).toString("utf8")).toBe(text);
}

/** There is no stream of this name: it cannot be read, described or deleted. */
export async function expectAbsent(stream) {
  expectRefusal(await stream.get(), 404);
  expect((await stream.head()).status).toBe(404);
  expectRefusal(await stream.delete(), 404);
}
