/** The signals that the views read, and what changes them. Everything that the page knows is here. */
import {computed, effect, signal} from "./lib.js";
import {apply, START} from "./state.js";
import {formatRoute, parseRoute} from "./filter.js";
/** @import {Message, Route, State} from "./types.js" */
/** @import {Link} from "./socket.js" */

export const state = signal(/** @type {State} */ (START));
export const link = signal(/** @type {Link} */ ({status: "connecting", at: null, retryAt: null, reason: null}));
export const route = signal(parseRoute(location.hash));
/** Server time minus this machine's, in seconds. */
export const skew = signal(0);
/** Server time, Unix seconds, once a second: what ages are counted from. */
export const now = signal(Date.now() / 1000);
/** Ids of chosen rows; "all" is all that match, however many. */
export const chosen = signal(/** @type {ReadonlySet<string> | "all"} */ (new Set()));
/** The row with the keyboard. */
export const cursor = signal(-1);
export const dialog = signal(/** @type {{kind: "new", from?: string} | {kind: "help"} | {kind: "token"} |
  {kind: "confirm", text: string, action: string, danger: boolean, run: () => void} | null} */ (null));
/** @typedef {{id: number, text: string, bad: boolean}} Toast */
export const toasts = signal(/** @type {Toast[]} */ ([]));
export const restarted = signal(false);

/** @param {Message} message */
export function dispatch(message) {
  const before = state.peek();
  if (message.type === "hello" || message.type === "ping" || message.type === "stat") {
    skew.value = message.now - Date.now() / 1000;
  }
  state.value = apply(before, message);
  if (message.type === "hello" && before.epoch !== null && before.epoch !== message.epoch) restarted.value = true;
}

/** Go to another view; what is not named stays. @param {Partial<Route>} change @param {boolean} replace */
export function go(change, replace = false) {
  const to = formatRoute({...route.peek(), ...change});
  if (replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  route.value = parseRoute(to);
}

let toastNumber = 0;
/** @param {string} text @param {boolean} bad */
export function toast(text, bad = false) {
  const id = ++toastNumber;
  toasts.value = [...toasts.peek(), {id, text, bad}].slice(-4);
  setTimeout(() => dismiss(id), bad ? 10_000 : 6_000);
}

/** @param {number} id */
export function dismiss(id) {
  toasts.value = toasts.peek().filter((one) => one.id !== id);
}

/** @template {string} T @param {string} name @param {T} fallback @param {readonly T[]} allowed */
export function preference(name, fallback, allowed) {
  const stored = /** @type {T} */ (localStorage.getItem(`oq.${name}`));
  const value = signal(allowed.includes(stored) ? stored : fallback);
  effect(() => localStorage.setItem(`oq.${name}`, String(value.value)));
  return value;
}

export const theme = preference("theme", /** @type {"auto" | "light" | "dark"} */ ("auto"), ["auto", "light", "dark"]);
export const follow = preference("follow", "yes", ["yes", "no"]);
export const span = preference("span", /** @type {"5m" | "1h" | "24h"} */ ("5m"), ["5m", "1h", "24h"]);
/** Parts of the state: a view that reads one is drawn again only when that one changed. */
export const sys = computed(() => state.value.sys), counts = computed(() => state.value.counts), total = computed(() => state.value.total);
export const samples = computed(() => state.value.samples), epoch = computed(() => state.value.epoch), view = computed(() => state.value.view);
export const found = computed(() => state.value.found), fresh = computed(() => state.value.fresh), complete = computed(() => state.value.complete);
export const places = computed(() => state.value.places), tasks = computed(() => state.value.tasks), open = computed(() => state.value.open);
/** What list is shown, apart from what is open beside it. */
export const listKey = computed(() => JSON.stringify([route.value.status, route.value.filter, route.value.sort]));

export function startClock() {
  setInterval(() => {
    now.value = Date.now() / 1000 + skew.peek();
  }, 1000);
  addEventListener("popstate", () => (route.value = parseRoute(location.hash)));
  addEventListener("hashchange", () => (route.value = parseRoute(location.hash)));
}
