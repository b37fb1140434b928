// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number: number): string => whole.format(number);

/** Returns a count in at most four digits, for places with little room. */
export const shortCount = (number: number): string =>
  number < 10_000 ? whole.format(number) : short.format(number);

export function rate(perSecond: number): string {
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(2) : shortCount(Math.round(perSecond));
}

const units = ["B", "KB", "MB", "GB", "TB", "PB"];

export function bytes(number: number): string {
  let unit = 0;
  let value = number;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

const dateTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const time = (milliseconds: number): string => dateTime.format(milliseconds);

const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const clock = (milliseconds: number): string => clockTime.format(milliseconds);

/** Returns a duration in one or two units, such as `3 min` or `2 h`. */
export function duration(milliseconds: number): string {
  const seconds = Math.round(Math.abs(milliseconds) / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  if (hours < 48) return `${hours} h`;
  return `${Math.round(hours / 24)} d`;
}

/** Returns when something was or will be, as seen from now. */
export function relative(milliseconds: number, now: number): string {
  const distance = milliseconds - now;
  if (Math.abs(distance) < 5000) return "now";
  return distance < 0 ? `${duration(distance)} ago` : `in ${duration(distance)}`;
}
