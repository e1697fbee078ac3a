/** The form for a new task, empty or filled from another one. What the server finds wrong is said at its field. */
import {h, html, useEffect, useRef, useState} from "../lib.js";
import {copy, failureText} from "../actions.js";
import {ApiError, ask, get} from "../api.js";
import {asCli, asCurl} from "../commands.js";
import {DraftError, EMPTY, formField, fromTask, isBegun, restored, toRequest} from "../draft.js";
import {t, tName} from "../i18n.js";
import {refresh} from "../list.js";
import {dialog, go, toast} from "../store.js";
import {wholeTask} from "../task.js";
/** @import {Key} from "../i18n.js" */
/** @import {Draft} from "../draft.js" */

const TYPES = /** @type {const} */ (["chat", "generate", "embed"]);
const ROLES = ["user", "assistant", "system", "tool"];

const KEPT = "oq.draft";

/** Keep what was begun until it is submitted: Escape or a reload must not cost a long prompt. @param {Draft} draft */
function keep(draft) {
  try {
    if (isBegun(draft)) sessionStorage.setItem(KEPT, JSON.stringify(draft));
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Larger than the browser keeps: it lives as long as the dialog.
  }
}

/** @typedef {{field: string, text: string}} Wrong */
/** @typedef {{draft: Draft, set: (change: Partial<Draft>) => void, wrong: Wrong | null}} Form */

/** @param {{from: string | null}} props */
export function NewTask({from}) {
  const [draft, setDraft] = useState(() => (from ? EMPTY : restored(sessionStorage.getItem(KEPT))));
  const [wrong, setWrong] = useState(/** @type {Wrong | null} */ (null));
  const [models, setModels] = useState(/** @type {string[]} */ ([]));
  const [busy, setBusy] = useState(false);
  const form = useRef(/** @type {HTMLFormElement | null} */ (null));
  const key = useRef(crypto.getRandomValues(new Uint32Array(4)).join("-")); // a second click is the same task
  const set = (/** @type {Partial<Draft>} */ change) => setDraft((before) => {
    const next = {...before, ...change};
    if (!from) keep(next); // not in an effect: it comes too late for who closes at once, and then forgets what came after it
    return next;
  });
  useEffect(() => {
    get("/api/models").then((/** @type {{name: string}[]} */ found) => {
      setModels(found.map(({name}) => name));
      if (!from && found.length === 1) setDraft((before) => ({...before, model: before.model || (found[0]?.name ?? "")}));
    }, () => setModels([]));
    if (from) wholeTask(from).then((task) => setDraft(fromTask(task)), (error) => setWrong({field: "", text: failureText(error)}));
  }, []);
  useEffect(() => {
    if (wrong) /** @type {HTMLElement | null | undefined} */ (form.current?.querySelector("[aria-invalid=true]"))?.focus();
  }, [wrong]);

  /** @param {(request: string) => unknown} use */
  const withRequest = async (use) => {
    setWrong(null);
    try {
      await use(toRequest(draft));
    } catch (error) {
      if (error instanceof DraftError) setWrong({field: formField(error.field), text: t(/** @type {Key} */ (error.key))});
      else setWrong({field: formField(error instanceof ApiError ? error.field : null), text: failureText(error)});
    }
  };
  const submit = () => withRequest(async (request) => {
    setBusy(true);
    try {
      const {text} = await ask("/api/tasks", {method: "POST", json: request, key: key.current});
      const {task_id: id} = JSON.parse(text);
      if (!from) keep(EMPTY);
      dialog.value = null;
      toast(t("new.done", {id: id.slice(-8)}));
      go({page: "tasks", id});
      void refresh();
    } catch (error) {
      key.current = crypto.getRandomValues(new Uint32Array(4)).join("-");
      throw error;
    } finally {
      setBusy(false);
    }
  });
  const fields = {draft, set, wrong};
  const general = wrong && !FIELDS.has(wrong.field) ? wrong.text : null;
  return html`<form class="new-task" ref=${form} novalidate onSubmit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); void submit(); }}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void submit(); }}>
    <div class="spans" role="group" aria-label=${t("column.type")}>${TYPES.map((type) =>
      html`<button type="button" aria-pressed=${draft.type === type ? "true" : "false"} onClick=${() => set({type})}>${tName("type", type)}</button>`)}</div>
    <div class="pair">
      ${h(Field, {...fields, name: "model", label: t("fact.model")}, html`<input id="f-model" list="models" value=${draft.model} autofocus autocomplete="off" ...${state(wrong, "model")}
        placeholder=${models.length ? t("new.modelHint") : t("new.noModels")} onInput=${value(set, "model")} /><datalist id="models">${models.map((name) => html`<option value=${name}></option>`)}</datalist>`)}
      ${h(Field, {...fields, name: "priority", label: t("column.priority")}, html`<select id="f-priority" ...${state(wrong, "priority")} onChange=${value(set, "priority")}>
        ${[...(["1", "5", "10", "15"].includes(draft.priority) ? [] : [draft.priority]), "15", "10", "5", "1"].map((level) =>
          html`<option value=${level} selected=${level === draft.priority}>${tName("priority", {1: "low", 5: "normal", 10: "high", 15: "critical"}[level] ?? level)}</option>`)}</select>`)}
    </div>
    ${draft.type === "embed" ? area(fields, "input", "inputs", t("new.inputs"), 5) : null}
    ${draft.type !== "embed" ? area(fields, "system", "system", t("new.system"), 2) : null}
    ${draft.type === "generate" ? area(fields, "prompt", "prompt", t("new.prompt"), 5) : null}
    ${draft.type === "chat" ? h(Messages, fields) : null}
    ${draft.more ? html`<p class="muted">${t("new.more")} <code>${draft.more.slice(0, 200)}</code></p>` : null}
    <details open=${Boolean(draft.options || draft.format || draft.tags || (wrong && FOLDED.has(wrong.field)))}><summary>${t("new.details")}</summary>
      <div class="pair">${line(fields, "tags", "tags", t("fact.tags"), t("new.tagsHint"))}${line(fields, "delay", "delay", t("new.delay"), "5m")}</div>
      <div class="pair">${line(fields, "max_retries", "maxRetries", t("new.retries"), t("new.default"))}${line(fields, "timeout", "timeout", t("fact.timeout"), t("new.default"))}</div>
      ${area(fields, "options", "options", t("new.options"), 2, '{"temperature": 0.2, "num_ctx": 8192}')}
      ${draft.type !== "embed" ? html`<div class="pair">${h(Field, {...fields, name: "format", label: t("new.format")}, html`<select id="f-format-kind" onChange=${value(set, "format")}>
          ${["", "json", "schema"].map((kind) => html`<option value=${kind} selected=${kind === draft.format}>${tName("format", kind || "text")}</option>`)}</select>`)}
        ${h(Field, {...fields, name: "think", label: t("new.think")}, html`<select id="f-think" onChange=${value(set, "think")}>
          ${["", "true", "false", "low", "medium", "high"].map((kind) => html`<option value=${kind} selected=${kind === draft.think}>${tName("think", kind || "default")}</option>`)}</select>`)}</div>` : null}
      ${draft.format === "schema" && draft.type !== "embed" ? html`<label class="field" for="f-format">${t("new.schema")}<textarea id="f-format" class="mono" rows="4" ...${state(wrong, "format")}
        placeholder='{"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}' value=${draft.schema} onInput=${value(set, "schema")}></textarea></label>` : null}
    </details>
    ${general ? html`<p class="box bad" role="alert">${general}</p>` : null}
    <div class="dialog-foot"><button type="button" onClick=${() => withRequest((request) => copy(asCurl(request, location.origin), "copied.command"))}>${t("action.curl")}</button>
      <button type="button" onClick=${() => withRequest((request) => copy(asCli(request, location.origin), "copied.command"))}>${t("action.cli")}</button>
      ${!from && isBegun(draft) ? html`<button type="button" onClick=${() => set(EMPTY)}>${t("new.again")}</button>` : null}
      <span class="grow"></span><button type="submit" class="primary" disabled=${busy}>${t("new.submit")} <kbd>Ctrl ↵</kbd></button></div></form>`;
}

const FOLDED = new Set(["tags", "delay", "max_retries", "timeout", "options", "format", "think"]);
const FIELDS = new Set([...FOLDED, "model", "priority", "messages", "system", "prompt", "input"]);

/** @param {Form["set"]} set @param {keyof Draft} name */
const value = (set, name) => (/** @type {Event} */ event) => set({[name]: /** @type {HTMLInputElement} */ (event.target).value});

/** @param {Wrong | null} wrong @param {string} name */
function state(wrong, name) {
  return wrong?.field === name ? {"aria-invalid": "true", "aria-describedby": `e-${name}`} : {};
}

/** @param {Form & {name: string, label: string, children?: import("../lib.js").Child}} props */
function Field({name, label, wrong, children}) {
  return html`<div class="field"><label for=${name === "format" ? "f-format-kind" : `f-${name}`}>${label}</label>${children}
    ${wrong?.field === name ? html`<span class="wrong" id=${`e-${name}`} role="alert">${wrong.text}</span>` : null}</div>`;
}

/** @param {Form} form @param {string} name @param {"tags" | "delay" | "maxRetries" | "timeout"} key @param {string} label @param {string} hint */
function line(form, name, key, label, hint) {
  return h(Field, {...form, name, label}, html`<input id=${`f-${name}`} value=${form.draft[key]} placeholder=${hint} autocomplete="off" ...${state(form.wrong, name)} onInput=${value(form.set, key)} />`);
}

/** @param {Form} form @param {string} name @param {"inputs" | "system" | "prompt" | "options"} key @param {string} label @param {number} rows @param {string} hint */
function area(form, name, key, label, rows, hint = "") {
  return h(Field, {...form, name, label}, html`<textarea id=${`f-${name}`} rows=${rows} class=${key === "options" ? "mono" : ""} value=${form.draft[key]} placeholder=${hint} ...${state(form.wrong, name)}
    onInput=${value(form.set, key)}></textarea>`);
}

/** @param {Form} form */
function Messages({draft, set, wrong}) {
  /** @param {number} index @param {Partial<import("../draft.js").Message>} change */
  const edit = (index, change) => set({messages: draft.messages.map((message, i) => (i === index ? {...message, ...change} : message))});
  const add = () => set({messages: [...draft.messages, {role: draft.messages.at(-1)?.role === "user" ? "assistant" : "user", content: ""}]});
  return html`<fieldset class="messages"><legend>${t("new.messages")}</legend>
    ${draft.messages.map(({role, content}, index) => html`<div class="message" key=${index}>
      <select aria-label=${t("new.role", {number: index + 1})} onChange=${(/** @type {Event} */ event) => edit(index, {role: /** @type {HTMLSelectElement} */ (event.target).value})}>
        ${ROLES.map((name) => html`<option value=${name} selected=${name === role}>${tName("role", name)}</option>`)}</select>
      <textarea rows="3" aria-label=${t("new.message", {number: index + 1})} value=${content} ...${index === 0 ? state(wrong, "messages") : {}}
        onInput=${(/** @type {Event} */ event) => edit(index, {content: /** @type {HTMLTextAreaElement} */ (event.target).value})}></textarea>
      ${draft.messages.length > 1 ? html`<button type="button" class="square" aria-label=${t("new.remove", {number: index + 1})} onClick=${() => set({messages: draft.messages.filter((_, i) => i !== index)})}>✕</button>` : null}
    </div>`)}
    ${wrong?.field === "messages" ? html`<span class="wrong" id="e-messages" role="alert">${wrong.text}</span>` : null}
    <button type="button" onClick=${add}>+ ${t("new.add")}</button></fieldset>`;
}
