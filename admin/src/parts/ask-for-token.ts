// The request to show the dialog for tokens, which any part of the page can make.

import type { Audience } from "../http";

type Listener = (audience: Audience) => void;

const listeners = new Set<Listener>();

export function askForToken(audience: Audience): void {
  for (const listener of listeners) listener(audience);
}

export function onAskForToken(listener: Listener): () => void {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}
