// The page that the URL names, without loads of the document.

import type { ComponentChildren, TargetedMouseEvent } from "preact";
import { useEffect, useState } from "preact/hooks";

export type Place =
  | { page: "overview" }
  | { page: "streams" }
  | { page: "stream"; name: string }
  | { page: "subscriptions" }
  | { page: "subscription"; id: string }
  | { page: "sessions" }
  | { page: "session"; id: string }
  | { page: "unknown" };

const root = "/admin";
const listeners = new Set<() => void>();

/** Returns the place that a path names. */
export function placeOf(path: string): Place {
  const rest = path.slice(root.length).replace(/^\/+/, "");
  if (rest === "") return { page: "overview" };
  if (rest === "streams" || rest === "streams/") return { page: "streams" };
  if (rest === "subscriptions" || rest === "subscriptions/") return { page: "subscriptions" };
  const id = /^subscriptions\/([^/]+)$/.exec(rest)?.[1];
  if (id !== undefined) return { page: "subscription", id };
  if (rest === "sessions" || rest === "sessions/") return { page: "sessions" };
  const session = /^sessions\/([^/]+)$/.exec(rest)?.[1];
  if (session !== undefined) return { page: "session", id: session };
  const name = /^streams\/(.+)$/.exec(rest)?.[1];
  return name === undefined ? { page: "unknown" } : { page: "stream", name };
}

export function go(path: string, how: "push" | "replace" = "push"): void {
  if (how === "replace") history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  for (const listener of listeners) listener();
}

/** Returns the present path and query, and renders again when they change. */
export function useLocation(): { path: string; query: URLSearchParams } {
  const read = () => location.pathname + location.search;
  const [, setUrl] = useState(read);
  useEffect(() => {
    const listen = () => setUrl(read());
    listeners.add(listen);
    addEventListener("popstate", listen);
    return () => {
      listeners.delete(listen);
      removeEventListener("popstate", listen);
    };
  }, []);
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

interface LinkProps {
  to: string;
  class?: string;
  /** Whether the link leads to this page, or to the section that it belongs to. */
  current?: boolean | "section";
  title?: string;
  onFollow?: () => void;
  children: ComponentChildren;
}

export function Link({ to, current, onFollow, children, ...rest }: LinkProps) {
  const follow = (event: TargetedMouseEvent<HTMLAnchorElement>) => {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(to);
    onFollow?.();
  };
  const ariaCurrent = current === "section" ? "true" : current ? "page" : undefined;
  return (
    <a href={to} aria-current={ariaCurrent} onClick={follow} {...rest}>
      {children}
    </a>
  );
}
