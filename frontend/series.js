/** Samples as lines of a chart. Pure. */
/** @import {Sample} from "./types.js" */

/** @typedef {(number | null)[][]} Lines times, then one column a line */

/** Growth per second of a counter. It begins anew with the server: that step is unknown.
 * @param {Sample[]} samples @param {"finished" | "tokens"} name @returns {Lines} */
export function perSecond(samples, name) {
  const times = [], values = [];
  for (let i = 1; i < samples.length; i++) {
    const before = /** @type {Sample} */ (samples[i - 1]), after = /** @type {Sample} */ (samples[i]);
    const seconds = after.now - before.now, growth = after[name] - before[name];
    times.push(after.now);
    values.push(seconds > 0 && growth >= 0 ? growth / seconds : null);
  }
  return [times, values];
}

/** @param {Sample[]} samples @param {("waiting" | "run_p50" | "run_p95")[]} names @returns {Lines} */
export function columns(samples, names) {
  return [samples.map(({now}) => now), ...names.map((name) => samples.map((sample) => sample[name]))];
}

/** The mean of the last few values: one second alone jumps. @param {(number | null)[]} values @param {number} many */
export function recent(values, many) {
  const last = values.slice(-many).filter((value) => value !== null);
  return last.length ? last.reduce((a, b) => a + b, 0) / last.length : null;
}

/** @param {(number | null)[]} values */
export function latest(values) {
  return values.findLast((value) => value !== null) ?? null;
}

/** Samples of a longer step, with the newest of all at their end. @param {Sample[]} samples @param {Sample | undefined} last */
export function upTo(samples, last) {
  return last && last.now > (samples.at(-1)?.now ?? 0) ? [...samples, last] : samples;
}
