// Who else looks at a stream.

import { useNow, useSubscription } from "../hooks";
import { presence } from "../streams/presence";

const dotsMax = 3;

/** Up to three dots, and how many more there are. */
export function Viewers({ name }: { name: string }) {
  useSubscription(presence.subscribe);
  const now = useNow(5_000);
  const viewers = presence.viewersOf(name, now);
  if (viewers.length === 0) return null;
  const noun = viewers.length === 1 ? "other viewer" : "other viewers";
  return (
    <span class="viewers">
      {viewers.slice(0, dotsMax).map(({ sessionId, color }) => (
        <span key={sessionId} class={`dot viewer-${color}`} aria-hidden="true" />
      ))}
      {viewers.length > dotsMax && <span aria-hidden="true">+{viewers.length - dotsMax}</span>}
      <span class="hidden">
        {viewers.length} {noun}
      </span>
    </span>
  );
}

/** Says that somebody else is writing a message. */
export function Typing({ name }: { name: string }) {
  useSubscription(presence.subscribe);
  const now = useNow(1_000);
  const typing = presence.viewersOf(name, now).filter((each) => presence.isTyping(each, now));
  if (typing.length === 0) return null;
  return (
    <span class="typing">
      {typing.length === 1 ? "Somebody is typing…" : `${typing.length} others are typing…`}
    </span>
  );
}

/** Switches on and off that others see this page's user. */
export function PresenceSwitch() {
  useSubscription(presence.subscribe);
  return (
    <label class="presence">
      <input
        type="checkbox"
        checked={presence.isOn}
        onChange={(event) =>
          event.currentTarget.checked ? presence.switchOn() : presence.switchOff()
        }
      />
      Show who is here
    </label>
  );
}
