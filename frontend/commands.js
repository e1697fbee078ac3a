/** A request as commands for a shell. Pure. */
import {members} from "./rawjson.js";

/** @param {string} text one word of a POSIX shell */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @param {string} json the request @param {string} origin */
export function asCurl(json, origin) {
  return `curl -sS ${quoted(`${origin}/api/tasks`)} -H 'Content-Type: application/json' -d ${quoted(json)}`;
}

/** The same with `oq submit`. @param {string} json the request @param {string} origin */
export function asCli(json, origin) {
  const task = members(json), payload = members(task.get("payload") ?? "{}");
  const text = (/** @type {string | undefined} */ value) => (value === undefined ? "" : String(JSON.parse(value)));
  const words = ["oq", "--server", origin, "submit", text(task.get("type")), "-m", text(task.get("model"))];
  /** @param {string} flag @param {string} value */
  const add = (flag, value) => words.push(flag, value);
  const priority = text(task.get("priority"));
  if (priority && priority !== "5") add("--priority", {1: "low", 10: "high", 15: "critical"}[priority] ?? priority);
  for (const [name, value] of members(task.get("options") ?? "{}")) add("--option", `${name}=${value.startsWith('"') ? text(value) : value}`);
  for (const tag of JSON.parse(task.get("tags") ?? "[]")) add("--tag", tag);
  for (const [name, flag] of [["max_retries", "--max-retries"], ["timeout", "--timeout"], ["delay", "--delay"], ["run_at", "--at"], ["keep_alive", "--keep-alive"]]) {
    const value = text(task.get(name ?? ""));
    if (value && flag) add(flag, value);
  }
  const system = text(payload.get("system")), think = payload.get("think");
  if (system) add("--system", system);
  if (think !== undefined) add("--think", text(think));
  const format = payload.get("format");
  const schema = format?.startsWith("{") ? ` --format @<(printf %s ${quoted(format)})` : format ? ` --format ${quoted(text(format))}` : "";
  if (payload.has("messages")) {
    for (const message of JSON.parse(payload.get("messages") ?? "[]")) add("--messages", `${message.role}:${message.content}`);
  } else if (payload.has("prompt")) add("--prompt", text(payload.get("prompt")));
  else for (const input of [JSON.parse(payload.get("input") ?? '""')].flat()) add("--input", input);
  return words.map(quoted).join(" ") + schema;
}
