/** What the server says (docs/reference/rest.md and websocket.md) and what the monitor makes of it. */
export type Status = "pending" | "scheduled" | "running" | "completed" | "failed" | "cancelled";
export type TaskType = "chat" | "generate" | "embed";
export type Counts = Record<Status, number>;
export interface Attempt {
  number: number; host: string; started_at: string; finished_at?: string; outcome?: string; error?: string; code?: string;
}
export interface Waiting { reason: string; text: string; until?: string; error?: string; hosts?: string[] }
export interface Embeddings { count: number; dimensions: number; first: number[] }
/** A task; times are RFC 3339, what is empty is absent. */
export interface Task {
  id: string; created_at: string; type: TaskType; priority: number; status: Status; model: string; prompt?: string;
  tags?: string[]; run_at?: string; started_at?: string; completed_at?: string; host?: string; error?: string;
  error_code?: string; retry_count: number; max_retries: number; revision: number; tokens?: number;
  tokens_per_second?: number; output_start?: string; queue_position?: number; expected_start_at?: string; waiting?: Waiting;
  timeout?: number;
}
/** `?view=summary`: without what is too large to show. */
export interface Summary extends Task {
  attempts?: Attempt[]; output?: string; output_chars?: number; thinking?: string; embeddings?: Embeddings;
  elided?: Record<string, number>; payload_bytes?: number; result_bytes?: number; error?: string;
}
/** RFC 7396: null clears, an absent field stays. */
export type Patch = {[K in keyof Summary]?: Summary[K] | null};
export interface Host {
  name: string; url: string; slots: number; busy: number; up: boolean; models: string[]; version?: string;
  available?: string[]; loaded?: string[]; error?: string; checked_at?: string;
}
export interface System { paused: boolean; draining: boolean; storage_ok: boolean; hosts: Host[] }
/** Counters count from the server's start. */
export interface Sample {
  now: number; waiting: number; running: number; finished: number; failed: number; tokens: number;
  wait_p50: number | null; wait_p95: number | null; run_p50: number | null; run_p95: number | null;
}
export type Series = {window: string, step: number} & {[K in keyof Sample]: Sample[K][]};
export interface State {
  epoch: string | null; seq: number; counts: Counts; total: number; sys: System | null; samples: Sample[];
  /** Grows when the rows on the screen must be read again. */
  stale: number;
  /** How long the page waits at least between two readings of its list. */
  listSeconds: number;
  /** Which list is shown; an answer for another one is dropped. */
  view: number;
  /** How many tasks the list has, null before the first answer; `fresh` more are newer than its first row. */
  found: number | null; fresh: number;
  /** Whether the search has looked at all tasks; else `found` is a lower bound. */
  complete: boolean;
  /** Row number to id, of the rows that are held. */
  places: ReadonlyMap<number, string>;
  /** Newest known form of each held row; null is a deleted one. */
  tasks: ReadonlyMap<string, Task | null>;
  /** The task beside the list: undefined none or not read yet, null deleted. */
  open: Summary | null | undefined;
}
export interface Rows {type: "rows", view: number, offset: number, tasks: Task[], found: number, fresh: number, complete: boolean}
export type Message =
  | {type: "hello", epoch: string, seq: number, now: number, list_seconds: number, counts: Counts, total: number, series: Series, sys: System}
  | {type: "delta", from: number, seq: number, tasks: Record<string, Patch | null>, counts: Counts, total: number}
  | {type: "sys"} & System
  | {type: "stat"} & Sample
  | {type: "resync", epoch: string, seq: number}
  | {type: "ping", now: number, list_seconds: number}
  | {type: "tok", id: string, attempt: number, kind: "content" | "thinking", off: number, text: string}
  | {type: "error", error: string, code: string}
  | {type: "view"}
  | Rows
  | {type: "shift", by: number}
  | {type: "open", task: Summary | null | undefined};
export interface Filter { text: string, model: string[], host: string[], type: string[], priority: string[], tag: string[] }
export interface Route { page: "tasks" | "hosts" | "events", id: string | null, status: Status | null, filter: string, sort: string }
