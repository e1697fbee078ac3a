/** One task beside the list. */
import {h, html, signal, useEffect, useRef} from "../lib.js";
import {actOnOne, copy, deleteOne, failureText} from "../actions.js";
import {ask, taskPath} from "../api.js";
import {asCurl} from "../commands.js";
import {count, duration, exact, rate, seconds, spans, when} from "../format.js";
import {language, t, tName} from "../i18n.js";
import {Output} from "../output.js";
import {indented, members} from "../rawjson.js";
import {dialog, follow, go, now, open, route, state} from "../store.js";
import {listen, openError, raw, readOpen, requestOf, wholeTask} from "../task.js";
import {apart} from "./apart.js";
import {StatusMark} from "./icons.js";
import {Timeline} from "./timeline.js";
/** @import {Summary} from "../types.js" */

const tab = signal(/** @type {"output" | "request" | "result" | "timeline"} */ ("output"));
const TABS = /** @type {const} */ (["output", "request", "result", "timeline"]);
const problem = signal(/** @type {{id: string, text: string} | null} */ (null));

/** Run an action; what went wrong is shown in the drawer. @param {string} id @param {import("../actions.js").Action} action @param {number} [priority] */
export async function act(id, action, priority) {
  const wrong = await actOnOne(id, action, priority);
  problem.value = wrong ? {id, text: wrong} : null;
}

export function Drawer() {
  const {id} = route.value, task = open.value, error = openError.value;
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  if (!id) return null;
  const close = html`<button class="square" aria-label=${t("action.close")} title="Esc" onClick=${() => go({id: null})}>✕</button>`;
  if (!task) {
    const text = task === null || error?.status === 404 ? t("drawer.gone", {id}) : error ? failureText(error) : t("drawer.loading");
    return html`<aside class="drawer" aria-label=${t("drawer.label")}><div class="drawer-head"><span class="mono grow">${id.slice(0, 40)}</span>${close}</div>
      <div class="notice" role="status"><p>${text}</p>${error && error.status !== 404 ? html`<button onClick=${readOpen}>${t("action.again")}</button>` : null}</div></aside>`;
  }
  const wrong = problem.value?.id === task.id ? problem.value.text : null;
  return html`<aside class="drawer" aria-label=${t("drawer.label")} ref=${place}>
    <div class="drawer-head">${h(StatusMark, {status: task.status})} <span class="mono grow id">${task.id}</span>${close}</div>
    ${h(Actions, {task})}
    ${wrong ? html`<p class="box bad" role="alert">${wrong}</p>` : null}
    ${h(Facts, {task})}
    ${h(Waits, {task})}
    ${task.error && task.status !== "cancelled" ? html`<p class="box bad mono error-text">${task.error}${task.error_code ? html` <span class="code">${task.error_code}</span>` : null}</p>` : null}
    <div class="drawer-tabs"><div role="tablist" aria-label=${t("drawer.tabs")}>${TABS.map((name) => html`<button role="tab" id=${`tab-${name}`} aria-selected=${tab.value === name ? "true" : "false"}
        aria-controls="drawer-panel" tabindex=${tab.value === name ? 0 : -1} onClick=${() => (tab.value = name)} onKeyDown=${turn}>${t(`tab.${name}`)}</button>`)}</div>
      <span class="grow"></span>
      ${tab.value === "output" && task.status === "running" ? html`<label class="follow"><input type="checkbox" checked=${follow.value === "yes"}
        onChange=${(/** @type {Event} */ event) => (follow.value = /** @type {HTMLInputElement} */ (event.target).checked ? "yes" : "no")} /> ${t("drawer.follow")}</label>` : null}
      ${tab.value === "output" && task.status === "completed" && !task.embeddings ? html`<button onClick=${() => copyOutput(task)}>${t("action.copy")}</button>` : null}
    </div>
    ${h(Panel, {task, name: tab.value, key: `${task.id} ${tab.value}`})}
  </aside>`;
}

/** @param {Summary} task */
async function copyOutput(task) {
  const whole = (task.output_chars ?? 0) > (task.output ?? "").length ? (await wholeTask(task.id)).get("output") : undefined;
  await copy(whole === undefined ? task.output ?? "" : JSON.parse(whole), "copied.output");
}

/** Arrows go from tab to tab. @param {KeyboardEvent} event */
function turn(event) {
  const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
  if (!step) return;
  event.preventDefault();
  const name = TABS[(TABS.indexOf(tab.peek()) + step + TABS.length) % TABS.length] ?? "output";
  tab.value = name;
  document.getElementById(`tab-${name}`)?.focus();
}

/** @param {{task: Summary, name: typeof TABS[number]}} props */
function Panel({task, name}) {
  if (name === "output") return h(OutputPanel, {task});
  const inside = name === "timeline" ? h(Timeline, {task}) : h(Json, {task, part: name === "request" ? "payload" : "result"});
  return html`<div class="panel" role="tabpanel" id="drawer-panel" aria-labelledby=${`tab-${name}`} tabindex="0">${inside}</div>`;
}

/** @param {{task: Summary}} props */
function Actions({task}) {
  const {id, status} = task;
  const waits = status === "pending" || status === "scheduled", ended = !waits && status !== "running";
  return html`<div class="actions">
    ${ended ? html`<button class=${status === "failed" ? "primary" : ""} onClick=${() => act(id, "retry")}>${t("action.retry")} <kbd>r</kbd></button>`
      : html`<button class="danger" onClick=${() => act(id, "cancel")}>${t("action.cancel")} <kbd>c</kbd></button>`}
    ${waits ? html`<label>${t("column.priority")} <select onChange=${(/** @type {Event} */ event) => act(id, "priority", Number(/** @type {HTMLSelectElement} */ (event.target).value))}>
      ${[...([1, 5, 10, 15].includes(task.priority) ? [] : [task.priority]), 15, 10, 5, 1].map((level) => html`<option value=${level} selected=${level === task.priority}>${priorityWord(level)}</option>`)}</select></label>` : null}
    <button onClick=${() => (dialog.value = {kind: "new", from: id})}>${t("action.clone")}</button>
    <button onClick=${() => copy(id, "copied.id")}>${t("action.copyId")}</button>
    <button onClick=${async () => copy(asCurl(requestOf(await wholeTask(id)), location.origin), "copied.command")}>${t("action.curl")}</button>
    ${ended ? html`<button class="danger quiet" onClick=${() => deleteOne(id)}>${t("action.delete")}</button>` : null}
  </div>`;
}

/** @param {number} level */
export function priorityWord(level) {
  const name = {1: "low", 5: "normal", 10: "high", 15: "critical"}[level];
  return name ? tName("priority", name) : String(level);
}

/** @param {{task: Summary}} props */
function Facts({task}) {
  const {waited, ran} = spans(task, now.value), words = language.value;
  const waits = task.status === "pending" || task.status === "scheduled", runs = task.status === "running";
  const speed = task.tokens_per_second ?? (task.tokens && ran && !runs ? task.tokens / ran : null);
  /** @type {[string, string, string?, import("../lib.js").Child?][]} */
  const facts = [
    [t("fact.model"), task.model], [t("fact.host"), task.host ?? "–"], [t("fact.type"), tName("type", task.type)],
    [t(waits ? "fact.waiting" : "fact.waited"), duration(waited, words)], [t(runs ? "fact.running" : "fact.ran"), ran === null ? "–" : duration(ran, words)],
    [t("fact.tokens"), task.tokens === undefined ? "–" : count(task.tokens)], [t("fact.speed"), rate(speed)],
    [t("fact.created"), when(seconds(task.created_at), now.value), exact(seconds(task.created_at))],
    [t("fact.tries"), t("fact.triesOf", {now: task.retry_count + Number(!waits || task.retry_count > 0), most: task.max_retries + 1})],
  ];
  if (!waits) facts.splice(7, 0, [t("column.priority"), priorityWord(task.priority)]);
  if (task.tags?.length) facts.push([t("fact.tags"), task.tags.join(", "), undefined, apart(task.tags, ", ")]);
  if (task.timeout !== undefined) facts.push([t("fact.timeout"), duration(task.timeout, words)]);
  return html`<dl class="facts">${facts.map(([name, value, title, shown]) => html`<div><dt>${name}</dt><dd title=${title ?? value}>${shown ?? value}</dd></div>`)}</dl>`;
}

/** Why it does not run, which it is in the queue, when it is expected to start. @param {{task: Summary}} props */
function Waits({task}) {
  if (task.status !== "pending" && task.status !== "scheduled") return null;
  const {waiting, queue_position: position, expected_start_at: start} = task, words = language.value;
  const until = seconds(waiting?.until ?? task.run_at), expected = seconds(start);
  const parts = [
    ...(waiting ? [tName("waiting", waiting.reason)] : []),
    ...(waiting?.hosts?.length ? [waiting.hosts.join(", ")] : []),
    ...(until === null ? [] : [t("waiting.until", {time: when(until, now.value), in: duration(until - now.value, words)})]),
    ...(position ? [t(position === 1 ? "waiting.first" : "waiting.position", {position: count(position)})] : []),
    ...(expected === null ? [] : [expected - now.value < 1 ? t("waiting.soon") : t("waiting.expected", {in: duration(expected - now.value, words), time: when(expected, now.value)})]),
  ];
  if (!parts.length) return null;
  return html`<p class="box waits">${apart(parts)}${waiting?.error ? html`<br /><span class="mono error-text">${waiting.error}</span>` : null}</p>`;
}

/** @param {{task: Summary}} props */
function OutputPanel({task}) {
  const panel = useRef(/** @type {HTMLElement | null} */ (null)), content = useRef(/** @type {HTMLElement | null} */ (null));
  const thinking = useRef(/** @type {HTMLElement | null} */ (null)), details = useRef(/** @type {HTMLElement | null} */ (null));
  const empty = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    const box = /** @type {HTMLElement} */ (panel.current);
    let own = false;
    const drawn = () => {
      /** @type {HTMLElement} */ (details.current).hidden = !outputs.thinking.text;
      if (empty.current) empty.current.hidden = Boolean(outputs.content.text || outputs.thinking.text);
      if (follow.peek() === "yes" && state.peek().open?.status === "running") {
        own = true;
        box.scrollTop = box.scrollHeight;
      }
    };
    const outputs = {content: new Output(/** @type {HTMLElement} */ (content.current), drawn), thinking: new Output(/** @type {HTMLElement} */ (thinking.current), drawn)};
    const stop = listen(({reset, kind, text}) => {
      if (reset) {
        outputs.content.clear();
        outputs.thinking.clear();
      }
      outputs[kind].append(text);
    });
    outputs.thinking.flush();
    outputs.content.flush();
    const scrolled = () => {
      if (own) own = false;
      else if (state.peek().open?.status === "running") follow.value = box.scrollHeight - box.scrollTop - box.clientHeight < 40 ? "yes" : "no";
    };
    box.addEventListener("scroll", scrolled, {passive: true});
    return () => {
      stop();
      outputs.content.clear();
      outputs.thinking.clear();
    };
  }, [task.id]);
  const vectors = task.embeddings;
  const cut = (task.output_chars ?? 0) > (task.output?.length ?? 0) && task.status !== "running";
  return html`<div class="panel" role="tabpanel" id="drawer-panel" aria-labelledby="tab-output" tabindex="0" ref=${panel}>
    ${vectors ? h(Vectors, {task}) : null}
    <details class="thinking" ref=${details} hidden open><summary>${t("drawer.thinking")}</summary><div class="output mono" ref=${thinking}></div></details>
    <p class="muted" ref=${empty}>${vectors ? "" : t(task.status === "running" ? "output.soon" : task.status === "completed" ? "output.none" : "output.notYet")}</p>
    <div class="output mono" id="output" ref=${content}></div>
    ${cut ? html`<p class="muted">${t("output.cut", {count: count(task.output_chars ?? 0)})} <a href=${`${taskPath(task.id)}/result.json`} target="_blank" rel="noopener">${t("json.whole")}</a></p>` : null}
  </div>`;
}

/** @param {{task: Summary}} props */
function Vectors({task}) {
  const {count: vectors, dimensions} = /** @type {import("../types.js").Embeddings} */ (task.embeddings);
  const first = members(raw.value.get("embeddings") ?? "{}").get("first") ?? "[]";
  const copyAll = async () => {
    const {text} = await ask(`${taskPath(task.id)}/result.json`);
    await copy(members(text).get("embeddings") ?? text, "copied.vectors");
  };
  return html`<div class="vectors"><p>${t("vectors.count", {count: count(vectors), dimensions: count(dimensions)})}</p>
    <p class="mono">${first.replace(/\]$/, dimensions > 8 ? ", …]" : "]").replaceAll(",", ", ").replaceAll(",  ", ", ")}</p>
    <button onClick=${copyAll}>${t("vectors.copy")}</button></div>`;
}

const whole = signal(/** @type {{key: string, text: string} | null} */ (null));

/** @param {{task: Summary, part: "payload" | "result"}} props */
function Json({task, part}) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const key = `${task.id} ${part} ${task.revision}`;
  const text = whole.value?.key === key ? whole.value.text : part === "payload" ? (raw.value.has("id") ? requestOf(raw.value) : "") : raw.value.get("result") ?? "";
  const missing = whole.value?.key === key ? [] : Object.entries(task.elided ?? {}).filter(([name]) => name.startsWith(`${part}.`));
  useEffect(() => {
    const output = new Output(/** @type {HTMLElement} */ (place.current), () => {});
    output.append(text ? indented(text) : "");
    output.flush();
    return () => output.clear();
  }, [text]);
  const load = async () => {
    const {text: found} = await ask(`${taskPath(task.id)}/${part === "payload" ? "payload" : "result.json"}`);
    whole.value = {key, text: found};
  };
  return html`<div class="json">${text ? html`<div class="json-bar"><button onClick=${() => copy(text, "copied.json")}>${t("action.copy")}</button>
      ${missing.length ? html`<button onClick=${load}>${t("json.load")}</button><span class="muted">${t("json.elided", {what: missing.map(([name, size]) => `${name} (${count(size)} B)`).join(", ")})}</span>` : null}</div>`
      : html`<p class="muted">${t("json.none")}</p>`}
    <div class="output mono" ref=${place}></div></div>`;
}
