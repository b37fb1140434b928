// When a session ends if nobody uses it again.

import { relative, time } from "../format";
import { useNow } from "../hooks";
import { Badge } from "./controls";

const soonMs = 3_600_000;

/** Shows the end, as a warning if it is near. */
export function SessionEnd({ at }: { at: number }) {
  const now = useNow(1_000);
  if (at <= now) return <Badge tone="warn">overdue</Badge>;
  const text = <span title={time(at)}>{relative(at, now)}</span>;
  return at - now < soonMs ? <Badge tone="warn">{text}</Badge> : text;
}
