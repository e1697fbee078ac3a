/**
 * The monitor's knowledge as one value, and `apply`, which makes the next one of a message. Pure.
 *
 * Rule 1: of two forms of a task the one with the higher revision is kept; a deleted one stays deleted.
 * Rule 2: a delta that does not follow the last one (`from`) is taken all the same, and `stale` grows: rows are to be
 * read again. So with `resync`, and with a `hello` after which something can have been missed.
 * Rule 3: counts come with each hello and delta, all of them, and from nowhere else.
 */
/** @import {Counts, Message, Patch, Rows, Sample, Series, State, Summary, Task} from "./types.js" */

export const SAMPLES = 300; // one a second: five minutes
export const HELD = 2000; // rows; those farthest from the last ones read are let go

/** @type {Counts} */
const NONE = {pending: 0, scheduled: 0, running: 0, completed: 0, failed: 0, cancelled: 0};

/** @type {State} */
export const START = {
  epoch: null, seq: 0, counts: NONE, total: 0, sys: null, samples: [], stale: 0, listSeconds: 1, view: 0, found: null, fresh: 0,
  complete: true, places: new Map(), tasks: new Map(), open: undefined,
};

/** @param {State} state @param {Message} message @returns {State} */
export function apply(state, message) {
  switch (message.type) {
    case "hello": {
      const {epoch, seq, counts, total, series, sys, list_seconds: listSeconds} = message;
      const missed = state.epoch !== null && (epoch !== state.epoch || seq !== state.seq);
      return {...state, epoch, seq, counts, total, sys, listSeconds, samples: samplesOf(series).slice(-SAMPLES),
        stale: state.stale + Number(missed)};
    }
    case "delta": return delta(state, message);
    case "sys": {
      const {type: _, ...sys} = message;
      return {...state, sys};
    }
    case "stat": {
      const {type: _, ...sample} = message;
      const last = state.samples.at(-1);
      return last && last.now >= sample.now ? state : {...state, samples: [...state.samples, sample].slice(-SAMPLES)};
    }
    case "resync": return {...state, epoch: message.epoch, seq: message.seq, stale: state.stale + 1};
    case "ping": return {...state, listSeconds: message.list_seconds};
    case "view":
      return {...state, view: state.view + 1, found: null, fresh: 0, complete: true, places: new Map(), tasks: new Map()};
    case "rows": return rows(state, message);
    case "shift": {
      const places = new Map([...state.places].map(([place, id]) => [place + message.by, id]));
      return {...state, places};
    }
    case "open": {
      const {open} = state, {task} = message;
      return {...state, open: task && open?.id === task.id && open.revision > task.revision ? open : task};
    }
    default: return state;
  }
}

/** @param {State} state @param {Message & {type: "delta"}} message @returns {State} */
function delta(state, {from, seq, tasks: patches, counts, total}) {
  if (seq < state.seq || (seq === state.seq && from !== seq)) return state; // heard before
  let {tasks, open} = state;
  const changed = Object.entries(patches).filter(([id]) => tasks.has(id));
  if (changed.length) {
    const next = new Map(tasks);
    for (const [id, patch] of changed) next.set(id, merged(next.get(id) ?? null, patch));
    tasks = next;
  }
  const patch = open ? patches[open.id] : undefined;
  if (open && patch !== undefined) open = merged(open, patch);
  return {...state, seq, tasks, open, counts, total, stale: state.stale + Number(from !== state.seq)};
}

/** @template {Task} T @param {T | null} task @param {Patch | null} patch @returns {T | null} */
function merged(task, patch) {
  if (task === null || patch === null) return null;
  if ((patch.revision ?? task.revision) < task.revision) return task;
  const next = /** @type {Record<string, unknown>} */ ({...task});
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete next[name];
    else next[name] = value;
  }
  return /** @type {T} */ (/** @type {unknown} */ (next));
}

/** @param {State} state @param {Rows} message @returns {State} */
function rows(state, {view, offset, tasks: read, found, fresh, complete}) {
  if (view !== state.view) return state;
  const places = new Map(state.places), tasks = new Map(state.tasks);
  read.forEach((task, index) => {
    places.set(offset + index, task.id);
    const known = tasks.get(task.id);
    if (known === undefined || (known !== null && task.revision >= known.revision)) tasks.set(task.id, task);
  });
  for (const place of places.keys()) {
    if (place >= found) places.delete(place);
  }
  forget(places, tasks, offset + read.length / 2);
  return {...state, found, fresh, complete, places, tasks};
}

/** @param {Map<number, string>} places @param {Map<string, Task | null>} tasks @param {number} middle row on the screen */
function forget(places, tasks, middle) {
  if (places.size > HELD) {
    const far = [...places.keys()].sort((a, b) => Math.abs(b - middle) - Math.abs(a - middle));
    for (const place of far.slice(0, places.size - HELD)) places.delete(place);
  }
  if (tasks.size > 2 * HELD) {
    const kept = new Set(places.values());
    for (const id of tasks.keys()) if (!kept.has(id)) tasks.delete(id);
  }
}

/** The columns of a series as samples. @param {Series} series @returns {Sample[]} */
export function samplesOf(series) {
  return series.now.map((now, i) => ({
    now, waiting: series.waiting[i] ?? 0, running: series.running[i] ?? 0, finished: series.finished[i] ?? 0,
    failed: series.failed[i] ?? 0, tokens: series.tokens[i] ?? 0, wait_p50: series.wait_p50[i] ?? null,
    wait_p95: series.wait_p95[i] ?? null, run_p50: series.run_p50[i] ?? null, run_p95: series.run_p95[i] ?? null,
  }));
}
