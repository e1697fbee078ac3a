/** A task as the form holds it, and the JSON that submits it. Pure. */
import {members} from "./rawjson.js";

/** @typedef {{role: string, content: string}} Message */
/** @typedef {{type: "chat" | "generate" | "embed", model: string, system: string, messages: Message[], prompt: string, inputs: string,
 *  priority: string, delay: string, tags: string, maxRetries: string, timeout: string, options: string, format: "" | "json" | "schema",
 *  schema: string, think: string, more: string}} Draft `more`: members of a cloned payload that the form has no field for */

/** @type {Draft} */
export const EMPTY = {type: "chat", model: "", system: "", messages: [{role: "user", content: ""}], prompt: "", inputs: "", priority: "5", delay: "",
  tags: "", maxRetries: "", timeout: "", options: "", format: "", schema: "", think: "", more: ""};

export class DraftError extends Error {
  /** @param {string} field as the server names it @param {string} key the message's key */
  constructor(field, key) {
    super(key);
    this.field = field;
    this.key = key;
  }
}

/** The text, if it is JSON of that kind. @param {string} text @param {string} field @param {string} opens */
function checked(text, field, opens) {
  const found = text.trim();
  try {
    JSON.parse(found);
  } catch {
    throw new DraftError(field, "new.notJson");
  }
  if (!found.startsWith(opens)) throw new DraftError(field, "new.notObject");
  return found;
}

/** Members in the order given; empty ones are left out. @param {[string, string][]} fields each value JSON or "" */
function json(fields) {
  return `{${fields.filter(([, value]) => value !== "").map(([name, value]) => `${JSON.stringify(name)}: ${value}`).join(", ")}}`;
}

/** @param {string} text JSON of a text, "" for none */
const said = (text) => (text === "" ? "" : JSON.stringify(text));
/** @param {string} text a number as it is written, else a text for the server to judge */
const number = (text) => (/^\d+(\.\d+)?$/.test(text.trim()) ? text.trim() : said(text.trim()));

/** The request. Numbers in options and schema go out as they were written. @param {Draft} draft @returns {string} */
export function toRequest(draft) {
  /** @type {[string, string][]} */
  const payload = [];
  if (draft.type === "chat") payload.push(["messages", `[${draft.messages.map(({role, content}) => json([["role", said(role)], ["content", JSON.stringify(content)]])).join(", ")}]`]);
  else if (draft.type === "generate") payload.push(["prompt", JSON.stringify(draft.prompt)]);
  else {
    const inputs = draft.inputs.split("\n").filter((line) => line.trim());
    payload.push(["input", JSON.stringify(inputs)]);
  }
  if (draft.type !== "embed") {
    payload.push(["system", said(draft.system)]);
    if (draft.format === "json") payload.push(["format", '"json"']);
    if (draft.format === "schema") payload.push(["format", checked(draft.schema, "payload.format", "{")]);
    if (draft.think) payload.push(["think", draft.think === "true" || draft.think === "false" ? draft.think : said(draft.think)]);
  }
  const more = draft.more ? [...members(draft.more)] : [];
  const tags = draft.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
  return json([["type", said(draft.type)], ["model", JSON.stringify(draft.model.trim())], ["payload", json([...payload, ...more])],
    ["priority", number(draft.priority)], ["options", draft.options.trim() ? checked(draft.options, "options", "{") : ""],
    ["max_retries", number(draft.maxRetries)], ["timeout", number(draft.timeout)], ["delay", number(draft.delay)],
    ["tags", tags.length ? JSON.stringify(tags) : ""]]);
}

const OWN = {chat: ["messages", "system", "format", "think"], generate: ["prompt", "system", "format", "think"], embed: ["input"]};

/** A task of the server as a draft. @param {ReadonlyMap<string, string>} task members of its JSON @returns {Draft} */
export function fromTask(task) {
  const text = (/** @type {string | undefined} */ value) => (value === undefined ? "" : value.startsWith('"') ? String(JSON.parse(value)) : value);
  const type = /** @type {Draft["type"]} */ (text(task.get("type"))), payload = members(task.get("payload") ?? "{}");
  const messages = /** @type {Message[]} */ (type === "chat" ? JSON.parse(payload.get("messages") ?? "[]") : []);
  // Messages with pictures or tool calls would lose them in the form: they go along as they are.
  const plain = messages.every((message) => typeof message.content === "string" && Object.keys(message).every((key) => key === "role" || key === "content"));
  const kept = [...payload].filter(([name]) => !OWN[type].includes(name) || (name === "messages" && !plain));
  const format = payload.get("format") ?? "";
  return {...EMPTY, type, model: text(task.get("model")), system: text(payload.get("system")), prompt: text(payload.get("prompt")),
    messages: plain && messages.length ? messages : [],
    inputs: type === "embed" ? [JSON.parse(payload.get("input") ?? '""')].flat().join("\n") : "", priority: text(task.get("priority")),
    tags: task.has("tags") ? JSON.parse(task.get("tags") ?? "[]").join(", ") : "", maxRetries: text(task.get("max_retries")), timeout: text(task.get("timeout")),
    options: task.get("options") ?? "", format: format === '"json"' ? "json" : format.startsWith("{") ? "schema" : "", schema: format.startsWith("{") ? format : "",
    think: text(payload.get("think")), more: kept.length ? json(kept) : ""};
}

/** Which field of the form shows what the server says of *field*. @param {string | null} field */
export function formField(field) {
  if (!field) return "";
  const known = /^payload\.(messages|system|prompt|input|format|think)/.exec(field);
  if (known) return /** @type {string} */ (known[1]);
  return (field.split(/[.[]/)[0] ?? "").replace("run_at", "delay");
}

/** Was anything written into it, apart from the choices at its top? @param {Draft} draft */
export function isBegun(draft) {
  return JSON.stringify({...EMPTY, ...draft, type: EMPTY.type, model: EMPTY.model, priority: EMPTY.priority}) !== JSON.stringify(EMPTY);
}

/** The draft that was kept as JSON; an empty one if that is nothing, or of another version's making. @param {string | null} text @returns {Draft} */
export function restored(text) {
  try {
    const found = JSON.parse(text ?? "");
    const whole = Object.entries(EMPTY).every(([name, value]) => typeof found[name] === typeof value);
    return whole && Array.isArray(found.messages) && found.messages.every((/** @type {Message} */ message) => typeof message.content === "string") ? {...EMPTY, ...found} : EMPTY;
  } catch {
    return EMPTY;
  }
}
