/** A model of the server's side of the wire, as simple as can be: what tests compare the page's state with. */

const STATUSES = ["pending", "scheduled", "running", "completed", "failed", "cancelled"];
const COLUMNS = ["now", "waiting", "running", "finished", "failed", "tokens", "wait_p50", "wait_p95", "run_p50", "run_p95"];

export function series(samples) {
  return {window: "5m", step: 1, ...Object.fromEntries(COLUMNS.map((name) => [name, samples.map((sample) => sample[name] ?? null)]))};
}

export class Server {
  tasks = new Map();
  seq = 0;
  epoch = 1;
  #told = 0;
  #patches = new Map();
  #number = 0;

  constructor() {
    for (let i = 0; i < 4; i++) this.change(0, "submit");
    this.#tell();
  }

  get counts() {
    const counts = Object.fromEntries(STATUSES.map((name) => [name, 0]));
    for (const {status} of this.tasks.values()) counts[status]++;
    return counts;
  }

  #tell() {
    this.#told = this.seq;
    this.#patches = new Map();
  }

  change(pick, to) {
    this.seq++;
    if (to === "submit" || this.tasks.size === 0) {
      const id = `t${String(++this.#number).padStart(6, "0")}`;
      this.tasks.set(id, {id, created_at: "2026-01-01T00:00:00Z", type: "chat", priority: 5, status: "pending", model: "m", prompt: id, retry_count: 0, max_retries: 3, revision: 1});
      return;
    }
    const id = [...this.tasks.keys()][pick % this.tasks.size], before = this.tasks.get(id);
    if (to === "delete") {
      this.tasks.delete(id);
      this.#patches.set(id, null);
      return;
    }
    const {error, ...rest} = before;
    const after = {...rest, status: to, revision: before.revision + 1, ...(to === "failed" ? {error: `at ${this.seq}`} : {})};
    this.tasks.set(id, after);
    this.#patches.set(id, {status: to, revision: after.revision, error: after.error ?? null});
  }

  delta() {
    const message = {type: "delta", from: this.#told, seq: this.seq, tasks: Object.fromEntries(this.#patches), counts: this.counts, total: this.tasks.size};
    this.#tell();
    return message;
  }

  hello() {
    this.#tell();
    return {type: "hello", epoch: String(this.epoch), seq: this.seq, now: this.seq, list_seconds: 1, counts: this.counts, total: this.tasks.size, series: series([]),
      sys: {paused: false, draining: false, storage_ok: true, hosts: []}};
  }

  /** More happened than is kept: what was to be told is gone, and a delta with the counts follows. */
  resync() {
    this.#tell();
    return {type: "resync", epoch: String(this.epoch), seq: this.seq};
  }

  restart() {
    this.epoch++;
    this.seq = 0;
  }

  page() {
    const tasks = [...this.tasks.values()].reverse();
    return {type: "rows", view: 0, offset: 0, tasks, found: tasks.length, fresh: 0, complete: true};
  }
}
