// Short messages about what has happened, which disappear by themselves.

import { useEffect, useState } from "preact/hooks";
import { Button } from "./controls";
import { Close } from "./icons";

interface Toast {
  id: number;
  text: string;
  isBad: boolean;
}

const shownMs = 6_000;
const shownMax = 4;
let lastId = 0;
let show: ((toast: Toast) => void) | undefined;

export function toast(text: string, isBad = false): void {
  lastId += 1;
  show?.({ id: lastId, text, isBad });
}

export function Toasts() {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const remove = (id: number) => setToasts((all) => all.filter((each) => each.id !== id));
  useEffect(() => {
    show = (added) => {
      setToasts((all) => [...all.slice(1 - shownMax), added]);
      setTimeout(() => remove(added.id), shownMs);
    };
    return () => {
      show = undefined;
    };
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.map(({ id, text, isBad }) => (
        <div key={id} class={isBad ? "toast bad" : "toast"}>
          <span>{text}</span>
          <Button kind="plain" label="Dismiss" onClick={() => remove(id)}>
            <Close />
          </Button>
        </div>
      ))}
    </div>
  );
}
