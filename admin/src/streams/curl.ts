// The commands that do with curl what the page does. They name the token by a variable, so that it
// does not get into a shell's history.

import { token } from "../http";
import type { StreamDetail } from "../api";
import { streamUrl } from "./names";

/** Returns the text as one word of a POSIX shell. */
export function shellWord(text: string): string {
  return /^[A-Za-z0-9_\-./:=@%+,]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

const authorization = (variable: string) => `-H "Authorization: Bearer $${variable}"`;

function read(name: string, query: string, options: string[] = []): string {
  const words = ["curl", ...options];
  if (token("streams") !== "") words.push(authorization("AUTH_TOKEN"));
  words.push(shellWord(location.origin + streamUrl(name) + query));
  return words.join(" ");
}

/** Returns commands that read a stream. */
export function readCommands({ streamId }: StreamDetail): { label: string; text: string }[] {
  const adminUrl = `${location.origin}/admin/api/streams/${streamId}/detail`;
  const access = token("admin") === "" ? "" : `${authorization("ADMIN_TOKEN")} `;
  return [
    { label: "Read everything", text: read(streamId, "?offset=-1") },
    { label: "Follow from now on", text: read(streamId, "?offset=now&live=sse", ["-N"]) },
    { label: "Properties", text: `curl ${access}${shellWord(adminUrl)}` },
  ];
}

/** Returns a command that reads from an offset. */
export function readFrom(name: string, offset: string): string {
  return read(name, `?offset=${offset}`);
}

/** Returns a command that sends the same append, with the same numbers. */
export function appendCommand(
  name: string,
  headers: Record<string, string>,
  body: string,
  isHex: boolean,
): string {
  const words = ["curl", "-X", "POST"];
  if (token("admin") !== "") words.push(authorization("ADMIN_TOKEN"));
  for (const [key, value] of Object.entries(headers)) {
    words.push("-H", shellWord(`${key}: ${value}`));
  }
  words.push("--data-binary", isHex ? "@-" : shellWord(body));
  words.push(shellWord(`${location.origin}/admin/api/streams/${name}/append`));
  const command = words.join(" ");
  return isHex ? `echo ${shellWord(body)} | xxd -r -p | ${command}` : command;
}
