import assert from "node:assert/strict";
import {test} from "node:test";
import fc from "fast-check";
import {apply, HELD, SAMPLES, START} from "../../frontend/state.js";
import {Server, series} from "./server.mjs";

const hello = (more = {}) => ({type: "hello", epoch: "a", seq: 5, now: 1, list_seconds: 1, counts: START.counts, total: 0, series: series([]), sys: {paused: false, hosts: []}, ...more});
const task = (id, revision, more = {}) => ({id, revision, created_at: "2026-01-01T00:00:00Z", type: "chat", priority: 5, status: "pending", model: "m", retry_count: 0, max_retries: 3, ...more});
const rows = (state, tasks, more = {}) => ({type: "rows", view: state.view, offset: 0, tasks, found: tasks.length, fresh: 0, complete: true, ...more});
const delta = (from, seq, tasks = {}, counts = START.counts, total = 0) => ({type: "delta", from, seq, tasks, counts, total});

test("a message never changes the state it is applied to", () => {
  const freeze = (value) => {
    if (value && typeof value === "object" && !(value instanceof Map)) Object.values(Object.freeze(value)).forEach(freeze);
    return value;
  };
  let state = freeze(apply(START, hello()));
  state = freeze(apply(state, rows(state, [task("x", 1)])));
  const before = [...state.tasks];
  apply(state, delta(5, 6, {x: {revision: 2, status: "running"}}, {running: 1}, 1));
  assert.deepEqual([...state.tasks], before);
});

test("a patch is merged field by field and null clears a field", () => {
  let state = apply(START, hello());
  state = apply(state, rows(state, [task("x", 1, {error: "old", prompt: "Hi"})]));
  state = apply(state, delta(5, 6, {x: {revision: 2, status: "running", error: null}}));
  assert.deepEqual(state.tasks.get("x"), task("x", 2, {status: "running", prompt: "Hi"}));
});

test("progress without a revision is merged", () => {
  let state = apply(START, hello());
  state = apply(state, rows(state, [task("x", 4)]));
  state = apply(state, delta(5, 5, {x: {tokens: 34}}));
  assert.equal(state.tasks.get("x").tokens, 34);
  assert.equal(state.stale, 0);
});

test("an older form never replaces a newer one, from REST or from a delta", () => {
  let state = apply(START, hello());
  state = apply(state, rows(state, [task("x", 7, {status: "completed"})]));
  state = apply(state, rows(state, [task("x", 6, {status: "running"})]));
  state = apply(state, delta(5, 6, {x: {revision: 5, status: "pending"}}));
  assert.equal(state.tasks.get("x").status, "completed");
});

test("a deleted task stays deleted when an older page still has it", () => {
  let state = apply(START, hello());
  state = apply(state, rows(state, [task("x", 1)]));
  state = apply(state, delta(5, 6, {x: null}));
  state = apply(state, rows(state, [task("x", 9)]));
  assert.equal(state.tasks.get("x"), null);
});

test("the open task follows deltas, and an older summary does not replace it", () => {
  let state = apply(START, hello());
  state = apply(state, {type: "open", task: task("x", 1)});
  state = apply(state, delta(5, 6, {x: {revision: 2, status: "running"}}));
  state = apply(state, {type: "open", task: task("x", 1)});
  assert.equal(state.open.status, "running");
  state = apply(state, delta(6, 7, {x: null}));
  assert.equal(state.open, null);
});

test("a delta that does not follow the last one asks for exactly one new reading", () => {
  let state = apply(START, hello());
  state = apply(state, delta(5, 6));
  assert.equal(state.stale, 0);
  state = apply(state, delta(8, 9));
  assert.equal(state.stale, 1);
  state = apply(state, delta(9, 10));
  assert.equal(state.stale, 1);
});

test("a delta heard twice changes nothing", () => {
  let state = apply(START, hello());
  const once = apply(state, delta(5, 8, {}, {...START.counts, failed: 2}, 2));
  assert.equal(apply(once, delta(5, 8, {}, {...START.counts, failed: 1}, 1)), once);
});

test("another run of the server, or a hello after missed events, asks for a new reading; the first does not", () => {
  const first = apply(START, hello());
  assert.equal(first.stale, 0);
  assert.equal(apply(first, hello()).stale, 0);
  assert.equal(apply(first, hello({seq: 6})).stale, 1);
  assert.equal(apply(first, hello({epoch: "b"})).stale, 1);
});

test("the server says how often the list may be read", () => {
  let state = apply(START, hello());
  assert.equal(state.listSeconds, 1);
  state = apply(state, {type: "ping", now: 2, list_seconds: 40});
  assert.equal(state.listSeconds, 40);
  assert.equal(apply(state, hello({epoch: "b", list_seconds: 2})).listSeconds, 2);
});

test("rows of another view are dropped", () => {
  let state = apply(START, hello());
  const old = rows(state, [task("x", 1)]);
  state = apply(state, {type: "view"});
  assert.equal(apply(state, old), state);
});

test("a sample that is not newer is ignored and the samples are bounded", () => {
  let state = apply(START, hello());
  for (let now = 1; now <= SAMPLES + 50; now++) state = apply(state, {type: "stat", now, waiting: now});
  assert.equal(state.samples.length, SAMPLES);
  assert.equal(apply(state, {type: "stat", now: 3, waiting: 9}), state);
});

test("at most so many rows are held, those around the screen", () => {
  let state = apply(START, hello());
  for (let offset = 0; offset < HELD * 3; offset += 100) {
    const page = Array.from({length: 100}, (_, i) => task(`t${offset + i}`, 1));
    state = apply(state, rows(state, page, {offset, found: HELD * 3}));
  }
  assert.equal(state.places.size, HELD);
  assert.ok(state.places.has(HELD * 3 - 1) && !state.places.has(0));
  assert.ok(state.tasks.size <= 2 * HELD + 100);
});

test("a delta brings all counts, so that a lost one leaves none wrong", () => {
  let state = apply(START, hello());
  state = apply(state, delta(8, 9, {}, {...START.counts, running: 1, failed: 4}, 5));
  assert.deepEqual([state.counts, state.total, state.stale], [{...START.counts, running: 1, failed: 4}, 5, 1]);
});

test("whatever is lost, doubled or restarted: once read again, the page is what the server is", () => {
  const action = fc.oneof(
    {weight: 6, arbitrary: fc.record({do: fc.constant("change"), pick: fc.nat(), to: fc.constantFrom("pending", "running", "completed", "failed", "delete", "submit")})},
    {weight: 3, arbitrary: fc.record({do: fc.constant("tell"), how: fc.constantFrom("heard", "heard", "heard", "lost", "doubled", "late")})},
    {weight: 1, arbitrary: fc.record({do: fc.constant("resync")})},
    {weight: 1, arbitrary: fc.record({do: fc.constant("reconnect")})},
    {weight: 1, arbitrary: fc.record({do: fc.constant("restart")})},
    {weight: 2, arbitrary: fc.record({do: fc.constant("ask")})},
    {weight: 2, arbitrary: fc.record({do: fc.constant("answer")})},
  );
  fc.assert(fc.property(fc.array(action, {maxLength: 120}), (actions) => {
    const server = new Server();
    let state = apply(START, server.hello()), read = -1, known = "";
    /** Which tasks there are is the list's to find out (it reads again when counts change); how they stand is the state's. */
    const ids = () => [...server.tasks.keys()].join();
    const mustRead = () => state.stale !== read || ids() !== known;
    /** Answers on their way, oldest first. */
    let coming = [];
    /** A delta that comes after its follower. */
    let late = null;
    const ask = () => {
      read = state.stale;
      const view = state.view;
      coming.push(() => {
        known = ids();
        return {...server.page(), view};
      });
    };
    const answer = () => {
      const next = coming.shift();
      if (next) state = apply(state, next());
    };
    ask();
    for (const one of actions) {
      if (one.do === "change") server.change(one.pick, one.to);
      else if (one.do === "tell") {
        const message = server.delta();
        if (one.how === "late") late ??= message;
        else if (one.how !== "lost") {
          state = apply(state, message);
          if (one.how === "doubled") state = apply(state, message);
          if (late) state = apply(state, late);
          late = null;
        }
      } else if (one.do === "resync") state = apply(state, server.resync());
      else if (one.do === "reconnect") state = apply(state, server.hello());
      else if (one.do === "restart") {
        server.restart();
        coming = [];
        late = null;
        state = apply(state, server.hello());
      } else if (one.do === "ask") ask();
      else answer();
      if (mustRead()) ask();
    }
    // The world becomes quiet: one more change that no count shows, whose delta closes every gap; then what the state
    // asks for is read, and nothing else.
    server.change(0, [...server.tasks.values()][0]?.status ?? "submit");
    state = apply(state, server.delta());
    while (coming.length || mustRead()) {
      if (!coming.length) ask();
      answer();
    }
    assert.deepEqual(state.counts, server.counts);
    assert.equal(state.total, server.tasks.size);
    assert.equal(state.found, server.tasks.size);
    const shown = Array.from({length: state.found}, (_, place) => state.tasks.get(state.places.get(place)));
    assert.deepEqual(shown, server.page().tasks);
    assert.equal(state.places.size, state.found);
  }), {numRuns: 400});
});
