import assert from "node:assert/strict";
import {test} from "node:test";
import {age, count, duration, priorityOf, rate, seconds, shortError, spans, when} from "../../frontend/format.js";

test("durations have the unit that a person would choose", () => {
  const said = [0, 0.24, 9.94, 9.96, 59.4, 59.6, 3540, 3599, 3660, 86_400, 4e5].map((value) => duration(value, "en"));
  assert.deepEqual(said, ["0.0s", "0.2s", "9.9s", "10s", "59s", "1m", "59m", "1h", "1h 1m", "1d", "5d"]);
  assert.equal(duration(3900, "zh"), "1小时 5分");
});

test("no time is an empty text and never NaN", () => {
  assert.equal(duration(null, "en"), "");
  assert.equal(seconds("nonsense"), null);
  assert.equal(seconds(undefined), null);
});

test("a small rate keeps its decimal", () => {
  assert.deepEqual([rate(1.23), rate(152.4), rate(null), count(18249)], ["1.2", "152", "–", "18,249"]);
});

test("a number between named priorities shows the one below and keeps its number", () => {
  assert.deepEqual(priorityOf(12), {level: "high", name: null});
  assert.deepEqual(priorityOf(15), {level: "critical", name: "critical"});
  assert.equal(priorityOf(0).level, "low");
});

const task = {id: "x", created_at: "2026-01-01T00:00:00Z", status: "running", started_at: "2026-01-01T00:00:10Z", revision: 1};
const at = seconds("2026-01-01T00:00:30Z");

test("a task waits until it starts and runs until it ends", () => {
  assert.deepEqual(spans(task, at), {waited: 10, ran: 20});
  assert.deepEqual(spans({...task, status: "completed", completed_at: "2026-01-01T00:00:15Z"}, at), {waited: 10, ran: 5});
  assert.deepEqual(spans({...task, status: "pending", started_at: undefined}, at), {waited: 30, ran: null});
  assert.deepEqual(spans({...task, status: "cancelled", started_at: undefined, completed_at: "2026-01-01T00:00:02Z"}, at), {waited: 2, ran: null});
});

test("the age counts from the last thing that happened", () => {
  assert.equal(age(task, at), 20);
  assert.equal(age({...task, status: "pending"}, at), 30);
});

test("an error in the list leaves out what the host column says", () => {
  assert.equal(shortError('model server "gpu-a" (http://h:1) answered 500: boom'), "500: boom");
  assert.equal(shortError("boom"), "boom");
});

test("a time of another day names its day", () => {
  const noon = new Date(2026, 0, 31, 12, 5, 9).getTime() / 1000;
  assert.equal(when(noon, noon + 3600), "12:05:09");
  assert.equal(when(noon, noon + 86_400), "2026-01-31 12:05");
  assert.equal(when(noon + 2 * 86_400, noon), "2026-02-02 12:05");
  assert.equal(when(null, noon), "");
});
