import assert from "node:assert/strict";
import {test} from "node:test";
import {columns, latest, perSecond, recent, upTo} from "../../frontend/series.js";
import {samplesOf} from "../../frontend/state.js";
import {series} from "./server.mjs";

const samples = samplesOf(series([{now: 10, finished: 4, run_p50: null}, {now: 12, finished: 9, run_p50: 2}, {now: 13, finished: 1}]));

test("a rate is growth over time, and unknown where the server began anew", () => {
  assert.deepEqual(perSecond(samples, "finished"), [[12, 13], [2.5, null]]);
});

test("lines have one column a name, gaps included", () => {
  assert.deepEqual(columns(samples, ["run_p50"]), [[10, 12, 13], [null, 2, null]]);
});

test("the number beside a chart looks past gaps", () => {
  assert.equal(recent([1, null, 3], 2), 3);
  assert.equal(recent([], 5), null);
  assert.equal(latest([1, null]), 1);
});

test("a long series ends with the newest sample there is", () => {
  const newer = {...samples[0], now: 99};
  assert.deepEqual(upTo(samples, newer), [...samples, newer]);
  assert.deepEqual(upTo([], newer), [newer]);
  assert.deepEqual(upTo(samples, samples[1]), samples);
  assert.deepEqual(upTo(samples, undefined), samples);
});
