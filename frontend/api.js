/** The REST API. Every failure is an `ApiError`; the request's text and the answer's are handed on untouched. */

const TOKEN = "oq.token";
/** Waits for an answer; a list or a submit is far quicker, a bulk request on 100,000 tasks may not be. */
const TIMEOUT_MS = 60_000;

export class ApiError extends Error {
  /** @param {number} status 0 when there was no answer @param {string} code @param {string} message @param {string | null} field */
  constructor(status, code, message, field = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = field;
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN) ?? localStorage.getItem(TOKEN);
}

/** Use a token in this tab until it is closed; *keep* it in this browser for every tab. @param {string} value @param {boolean} keep */
export function setToken(value, keep) {
  sessionStorage.removeItem(TOKEN);
  localStorage.removeItem(TOKEN);
  if (value) (keep ? localStorage : sessionStorage).setItem(TOKEN, value);
}

/** Ask the server whether it takes a token; give its refusal, or null. @param {string} value */
export async function refusal(value) {
  try {
    const answer = await fetch("/api/status", {headers: {authorization: `Bearer ${value}`}});
    return answer.ok ? null : problem(answer.status, await answer.text());
  } catch (error) {
    return new ApiError(0, "unreachable", String(error instanceof Error ? error.message : error));
  }
}

/**
 * What a WebSocket offers, since it cannot send a header: the token is in a subprotocol, which is in no log and no history. One that
 * is no subprotocol by its characters, as `server.token` may be, goes into the address.
 * @param {string} place @returns {{url: string, protocols: string[]}}
 */
export function socketAccess(place) {
  const known = token();
  if (!known) return {url: place, protocols: []};
  if (/^[\w!#$%&'*+.^`|~-]+$/.test(known)) return {url: place, protocols: ["oq", `oq.token.${known}`]};
  return {url: `${place}?token=${encodeURIComponent(known)}`, protocols: []};
}

/** @returns {Record<string, string>} */
export function authorization() {
  const known = token();
  return known ? {authorization: `Bearer ${known}`} : {};
}

/**
 * Ask the server; give the answer's text and headers.
 * @param {string} path @param {{method?: string, json?: string, key?: string, event?: string, signal?: AbortSignal}} options
 *   `json` is sent as it is; `key` makes a repeat the same request; an answer of a moment ago that contains `event` will do
 */
export async function ask(path, {method = "GET", json, key, event, signal} = {}) {
  const headers = {...authorization()};
  if (json !== undefined) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  if (event) headers["x-event-id"] = event;
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response, text;
  try {
    response = await fetch(path, {method, headers, body: json, signal: signal ? AbortSignal.any([signal, limit]) : limit});
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", String(error instanceof Error ? error.message : error));
  }
  if (!response.ok) throw problem(response.status, text);
  return {text, headers: response.headers};
}

/** @param {number} status @param {string} text */
function problem(status, text) {
  try {
    const {error, code, field} = JSON.parse(text);
    return new ApiError(status, String(code), String(error), field ?? null);
  } catch {
    return new ApiError(status, "server_error", text.slice(0, 300) || `HTTP ${status}`);
  }
}

/** @param {string} path @param {unknown} body @returns {Promise<any>} */
export async function post(path, body = undefined) {
  const {text} = await ask(path, {method: "POST", json: body === undefined ? undefined : JSON.stringify(body)});
  return JSON.parse(text);
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, signal) {
  return JSON.parse((await ask(path, {signal})).text);
}

/** An id of dots alone, which a browser would take for another folder, becomes one that no task has. @param {string} id */
export const taskPath = (id) => `/api/tasks/${encodeURIComponent(id).replace(/^\.{1,2}$/, "%252E")}`;
