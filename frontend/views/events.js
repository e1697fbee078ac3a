/** What happens, newest first, as it happens. Read with fetch and not with EventSource: that cannot send a token. */
import {html, signal, useEffect} from "../lib.js";
import {authorization} from "../api.js";
import {exact, seconds, shortId, when} from "../format.js";
import {t, tName} from "../i18n.js";
import {epoch, now, state} from "../store.js";
import {apart} from "./apart.js";

const KEPT = 500;
const BEFORE = 200; // events of before the page was opened
const DRAW_MS = 250;
const AGAIN_MS = 2000;

/** @typedef {{seq: number, type: string, timestamp: string, task_id?: string, subject?: string, detail?: string,
 *  task?: {model?: string, type?: string, host?: string, error?: string}}} Happening */
const events = signal(/** @type {Happening[]} */ ([]));
const only = signal("");
const frozen = signal(false);
const GROUPS = /** @type {Record<string, string[]>} */ ({
  "": [], problems: ["task_failed", "task_retrying", "host_down"], tasks: ["task_submitted", "task_started", "task_completed",
    "task_failed", "task_retrying", "task_cancelled", "task_requeued", "task_deleted", "priority_updated"],
  queue: ["queue_paused", "queue_resumed", "queue_draining", "host_down", "host_up"],
});

/** The `data` of complete events in *text*, and what is left. @param {string} text */
export function parseEvents(text) {
  const parts = text.split("\n\n"), rest = parts.pop() ?? "", found = [];
  for (const part of parts) {
    const lines = part.split("\n").filter((line) => line.startsWith("data:"));
    if (lines.length) found.push(JSON.parse(lines.map((line) => line.slice(5)).join("\n")));
  }
  return {found, rest};
}

/** @param {AbortSignal} signal @param {(event: Happening) => void} take */
async function readStream(signal, take) {
  const {epoch: run, seq} = state.peek();
  /** @type {Record<string, string>} */
  const headers = {accept: "text/event-stream", ...authorization()};
  if (run) headers["last-event-id"] = `${run}-${Math.max(0, events.peek()[0]?.seq ?? seq - BEFORE)}`;
  const response = await fetch("/api/events", {signal, headers});
  if (!response.ok || !response.body) throw new Error(String(response.status));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const {value, done} = await reader.read();
    if (done) return;
    const {found, rest} = parseEvents(text + value);
    text = rest;
    found.forEach(take);
  }
}

export function Events() {
  useEffect(() => {
    const stop = new AbortController();
    /** @type {Happening[]} */ let waiting = [];
    const drawing = setInterval(() => {
      if (!waiting.length || frozen.peek()) return;
      events.value = [...waiting.reverse(), ...events.peek()].slice(0, KEPT);
      waiting = [];
    }, DRAW_MS);
    const run = async () => {
      while (!stop.signal.aborted) {
        try {
          await readStream(stop.signal, (event) => {
            if (event.type === "resync") events.value = [];
            waiting = [...waiting, event].slice(-KEPT);
          });
        } catch {
          // Broken off: again in a moment; the page's head tells that the server is away.
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    };
    events.value = [];
    void run();
    return () => {
      stop.abort();
      clearInterval(drawing);
    };
  }, [epoch.value]);
  const types = GROUPS[only.value] ?? [];
  const shown = types.length ? events.value.filter(({type}) => types.includes(type)) : events.value;
  return html`<div class="page"><div class="page-head"><h1>${t("nav.events")}</h1>
      <label>${t("events.show")} <select value=${only.value} onChange=${(/** @type {Event} */ event) => (only.value = /** @type {HTMLSelectElement} */ (event.target).value)}>
        ${Object.keys(GROUPS).map((name) => html`<option value=${name} selected=${name === only.value}>${tName("events", name || "all")}</option>`)}</select></label>
      <label><input type="checkbox" checked=${frozen.value} onChange=${() => (frozen.value = !frozen.peek())} /> ${t("events.freeze")}</label></div>
    ${shown.length === 0 ? html`<p class="muted">${t("events.none")}</p>` : html`<div class="table-box" tabindex="0" role="region" aria-label=${t("nav.events")}><table class="events"><thead><tr><th>${t("events.time")}</th><th>${t("events.what")}</th><th>${t("events.task")}</th><th>${t("events.detail")}</th></tr></thead>
      <tbody>${shown.slice(0, 200).map(row)}</tbody></table></div>`}</div>`;
}

/** @param {Happening} event */
function row({seq, type, timestamp, task_id: id, subject, detail, task}) {
  const at = seconds(timestamp);
  const tone = /failed|down|retrying/.test(type) ? "bad" : /completed|_up|resumed/.test(type) ? "good" : "";
  return html`<tr key=${seq}><td class="mono" title=${exact(at)}>${when(at, now.value)}</td>
    <td class=${tone}>${tName("event", type)}</td>
    <td>${id ? html`<a class="mono" href=${`#/t/${id}`} title=${id}>${shortId(id)}</a>` : html`<bdi class="mono">${subject ?? ""}</bdi>`}</td>
    <td class="detail">${apart([task?.model, task?.host, task?.error ?? detail])}</td></tr>`;
}
