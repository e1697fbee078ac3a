/** Numbers and times as people read them. Pure; the language is an argument. */
/** @import {Task} from "./types.js" */

/** @param {string | undefined | null} text RFC 3339 @returns {number | null} Unix seconds */
export function seconds(text) {
  const ms = text ? Date.parse(text) : NaN;
  return Number.isNaN(ms) ? null : ms / 1000;
}

const UNITS = {en: {s: "s", m: "m", h: "h", d: "d"}, zh: {s: "秒", m: "分", h: "小时", d: "天"}};

/** `0.2s`, `35s`, `12m`, `3h 5m`, `4d`. @param {number | null} value seconds @param {"en" | "zh"} language */
export function duration(value, language) {
  if (value === null || Number.isNaN(value)) return "";
  const unit = UNITS[language], s = Math.max(0, value);
  if (s < 9.95) return `${s.toFixed(1)}${unit.s}`;
  if (s < 59.5) return `${Math.round(s)}${unit.s}`;
  const minutes = Math.round(s / 60);
  if (minutes < 60) return `${minutes}${unit.m}`;
  if (minutes < 24 * 60) {
    const rest = minutes % 60;
    return `${Math.floor(minutes / 60)}${unit.h}${rest ? ` ${rest}${unit.m}` : ""}`;
  }
  return `${Math.round(s / 86400)}${unit.d}`;
}

const whole = new Intl.NumberFormat("en-US", {maximumFractionDigits: 0});

/** `18,249`. @param {number} value */
export function count(value) {
  return whole.format(value);
}

/** `1.2` or `152`: one decimal below a hundred. @param {number | null} value */
export function rate(value) {
  if (value === null || Number.isNaN(value)) return "–";
  return value < 100 ? value.toFixed(1) : count(value);
}

/** @param {number} value */
const two = (value) => String(value).padStart(2, "0");

/** `21:24:37` in the reader's zone. @param {number | null} at Unix seconds */
export function clock(at) {
  if (at === null) return "";
  const date = new Date(at * 1000);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** `21:24:37` of the same day, else `2026-01-31 21:24`; in the reader's zone. @param {number | null} at @param {number} now Unix seconds */
export function when(at, now) {
  if (at === null) return "";
  return exact(at).slice(0, 10) === exact(now).slice(0, 10) ? clock(at) : exact(at).slice(0, 16);
}

/** `2026-01-31 21:24:37.250` in the reader's zone. @param {number | null} at Unix seconds */
export function exact(at) {
  if (at === null) return "";
  const date = new Date(at * 1000);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(at)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** The last characters, which differ between ids of one moment. @param {string} id */
export const shortId = (id) => id.slice(-8);

/** An error without which server said it at which address: the list has a column for the host. @param {string} text */
export function shortError(text) {
  return text.replace(/^model server "[^"]*" \([^)]*\) (?:answered )?/, "");
}

const LEVELS = /** @type {const} */ ([[1, "low"], [5, "normal"], [10, "high"], [15, "critical"]]);

/** The nearest named level at or below, for the icon; and its name if the number has one.
 * @param {number} priority @returns {{level: "low" | "normal" | "high" | "critical", name: string | null}} */
export function priorityOf(priority) {
  const level = [...LEVELS].reverse().find(([least]) => priority >= least)?.[1] ?? "low";
  return {level, name: LEVELS.find(([value]) => value === priority)?.[1] ?? null};
}

/** How long the task waits or waited, and runs or ran; seconds, null where it has not come to that.
 * @param {Task} task @param {number} now Unix seconds */
export function spans(task, now) {
  const created = seconds(task.created_at), started = seconds(task.started_at), ended = seconds(task.completed_at);
  const waited = created === null ? null : Math.max(0, (started ?? ended ?? now) - created);
  const ran = started === null || task.status === "pending" || task.status === "scheduled" ? null
    : Math.max(0, (ended ?? now) - started);
  return {waited, ran};
}

/** What the Age column counts: from the last thing that happened to the task. @param {Task} task @param {number} now */
export function age(task, now) {
  const at = seconds(task.completed_at ?? (task.status === "running" ? task.started_at : null) ?? task.created_at);
  return at === null ? null : Math.max(0, now - at);
}
