/** The filter language, `text model:llama3.2 tag:"two words"`, and the page's address. Pure. */
/** @import {Filter, Route, Status} from "./types.js" */

export const STATUSES = /** @type {const} */ (["pending", "scheduled", "running", "completed", "failed", "cancelled"]);
export const SORTS = ["-created", "created", "-priority", "priority"];
const KEYS = /** @type {const} */ (["model", "host", "type", "priority", "tag"]);
const WORD = /(?:(model|host|type|priority|tag):)?(?:"([^"]*)"|(\S+))/gi;

/** @param {string} text @returns {Filter} */
export function parseFilter(text) {
  /** @type {Filter} */
  const found = {text: "", model: [], host: [], type: [], priority: [], tag: []};
  const words = [];
  for (const [whole, key, quoted, plain] of text.matchAll(WORD)) {
    const value = quoted ?? plain ?? "";
    if (key && value) found[/** @type {typeof KEYS[number]} */ (key.toLowerCase())].push(...value.split(",").filter(Boolean));
    else if (!key) words.push(quoted === undefined ? whole : value);
  }
  found.text = words.join(" ");
  return found;
}

/** The text that `parseFilter` reads back. @param {Filter} filter */
export function formatFilter(filter) {
  const words = KEYS.flatMap((key) => filter[key].map((value) => `${key}:${quote(value)}`));
  return [...words, ...(filter.text ? [quote(filter.text)] : [])].join(" ");
}

/** @param {string} value */
function quote(value) {
  return /^(model|host|type|priority|tag):|\s|^$/i.test(value) ? `"${value.replaceAll('"', "")}"` : value.replaceAll('"', "");
}

/** The fields as the list route and the bulk route name them.
 * @param {string} text @param {Status | null} status @returns {Record<string, string | string[]>} */
export function conditions(text, status) {
  const filter = parseFilter(text);
  /** @type {Record<string, string | string[]>} */
  const found = {};
  if (status) found.status = status;
  for (const key of KEYS) if (filter[key].length) found[key] = filter[key];
  if (filter.text) found.q = filter.text;
  return found;
}

/** The query string of a list. @param {Record<string, string | string[]>} fields
 * @param {Record<string, string | number | null>} more */
export function queryString(fields, more = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) for (const one of [value].flat()) query.append(name, one);
  for (const [name, value] of Object.entries(more)) if (value !== null) query.set(name, String(value));
  return query.toString();
}

/** @param {string} hash the part from "#" on @returns {Route} */
export function parseRoute(hash) {
  const [path = "", query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const given = new URLSearchParams(query);
  const [, first = "", second = ""] = path.split("/");
  const status = /** @type {Status} */ (given.get("status") ?? "");
  const sort = given.get("sort") ?? "";
  return {
    page: first === "hosts" || first === "events" ? first : "tasks",
    id: first === "t" && second ? safeDecode(second) : null,
    status: STATUSES.includes(status) ? status : null,
    filter: given.get("f") ?? "",
    sort: SORTS.includes(sort) ? sort : "-created",
  };
}

/** @param {Partial<Route>} route @returns {string} an address that `parseRoute` reads back */
export function formatRoute({page = "tasks", id = null, status = null, filter = "", sort = "-created"}) {
  const path = page !== "tasks" ? `#/${page}` : id ? `#/t/${encodeURIComponent(id)}` : "#/";
  const query = new URLSearchParams();
  if (status) query.set("status", status);
  if (filter) query.set("f", filter);
  if (sort !== "-created") query.set("sort", sort);
  return query.size ? `${path}?${query}` : path;
}

/** @param {string} text */
function safeDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
