// Names of streams as their URLs spell them.

export const registryName = "__registry__";
export const presenceName = "__presence__";

/** Returns the URL of the stream with this canonical name, relative to the origin. */
export function streamUrl(name: string): string {
  return `/v1/stream/${name}`;
}

/** Returns the page about the stream with this canonical name. */
export function streamPage(name: string): string {
  return `/admin/streams/${name}`;
}

/** Returns the page about the subscription with this canonical id. */
export function subscriptionPage(id: string): string {
  return `/admin/subscriptions/${id}`;
}

/** Returns the page about the session of this id. */
export function sessionPage(id: string): string {
  return `/admin/sessions/${id}`;
}

// What a path cannot contain as it is (RFC 3986, 3.3). What is encoded already stays so.
const foreign = /%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]/gu;

/** Returns the canonical name for what a user has typed, in which a slash separates segments. */
export function canonicalName(typed: string): string {
  return typed.trim().replace(foreign, (character) => encodeURIComponent(character));
}

/** Returns the name as people read it. An encoded slash or percent sign stays encoded. */
export function readableName(name: string): string {
  return name.replace(/(?:%[0-9A-F]{2})+/g, (encoded) =>
    encoded
      .split(/(%2F|%25)/)
      .map((part) => (part === "%2F" || part === "%25" ? part : decoded(part)))
      .join(""),
  );
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const session = /^subscriptions\/[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;

/** Returns whether this is the stream of a session. */
export function isSession(name: string): boolean {
  return session.test(name);
}

/** Returns whether only the server writes to this stream. */
export function isWrittenByServer(name: string): boolean {
  return name === registryName || name.startsWith(`${registryName}/`) || isSession(name);
}
