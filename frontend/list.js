/**
 * Which rows are read, and when.
 *
 * At the top of the newest-first list the window follows: no anchor, read again when counts changed, at most once in
 * `listSeconds`. Scrolled, the anchor (the newest row of the moment) keeps every row at its place; newer ones are counted.
 */
import {effect, signal} from "./lib.js";
import {ask, get} from "./api.js";
import {conditions, queryString} from "./filter.js";
import {chosen, cursor, dispatch, link, listKey, route, state} from "./store.js";
/** @import {ApiError} from "./api.js" */
/** @import {Task} from "./types.js" */

const PAGE = 100; // rows a request when scrolling
const AROUND = 25; // rows read beyond the edge, so that a slow scroll meets no hole
const HEAL_MS = 15_000; // what counts cannot show is seen at the latest after this

export const listError = signal(/** @type {ApiError | null} */ (null));
/** The event that the last list read is sure to contain. @type {number | null} */ let seen = null;
export const seenEvent = () => seen;
/** True once the list is scrolled away from its top. */
export const scrolled = signal(false);

/** @type {string | null} */ let anchor = null;
let visible = {first: 0, count: 40};
/** The rows on the screen: whose changes the server is to tell. */
export const watched = signal(visible);
/** @type {AbortController | null} */ let asked = null;
let reading = {first: 0, end: 0};
/** @type {number | undefined} */ let timer;
let readAt = 0;

/** Is the whole store shown, so that the counts alone tell how many rows there are? */
function everything() {
  const {status, filter, sort} = route.peek();
  return !status && !filter && sort === "-created";
}

/** The fields of the list and bulk routes that mean the tasks shown. */
export function shownConditions() {
  return conditions(route.peek().filter, route.peek().status);
}

/** @param {number} offset @param {number} limit @param {boolean} shared an answer that another page has just got will do */
async function read(offset, limit, shared = false) {
  const {sort} = route.peek(), {view, epoch, seq} = state.peek();
  asked?.abort();
  const mine = new AbortController();
  asked = mine;
  reading = {first: offset, end: offset + limit};
  readAt = performance.now();
  const query = queryString(shownConditions(), {sort, offset: offset || null, limit, anchor: sort === "-created" ? anchor : null});
  try {
    const {text, headers} = await ask(`/api/tasks?${query}`, {signal: mine.signal, event: shared ? `${epoch}-${seq}` : undefined});
    const total = Number(headers.get("x-total-count")), fresh = Number(headers.get("x-newer-count") ?? 0);
    const tasks = /** @type {Task[]} */ (JSON.parse(text));
    const event = headers.get("x-event-id");
    seen = event?.startsWith(`${state.peek().epoch}-`) ? Number(event.slice(event.lastIndexOf("-") + 1)) : null;
    listError.value = null;
    const complete = headers.get("x-search-complete") !== "false";
    dispatch({type: "rows", view, offset, tasks, found: total - fresh, fresh, complete});
  } catch (error) {
    if (!mine.signal.aborted) listError.value = /** @type {ApiError} */ (error);
  } finally {
    if (asked === mine) {
      asked = null;
      reading = {first: 0, end: 0};
    }
  }
}

/** Read again what is on the screen. @param {boolean} shared see `read` */
export function refresh(shared = false) {
  clearTimeout(timer);
  timer = undefined;
  return read(visible.first, Math.max(1, Math.min(PAGE, visible.count)), shared);
}

function refreshSoon() {
  timer ??= setTimeout(() => refresh(true), Math.max(0, readAt + state.peek().listSeconds * 1000 - performance.now()));
}

/** The list tells what part of it is on the screen. @param {number} first @param {number} count */
export function show(first, count) {
  visible = {first, count};
  watched.value = visible;
  const {places, found} = state.peek();
  const end = Math.min(first + count, found ?? count);
  const missing = [];
  for (let place = first; place < end; place++) if (!places.has(place)) missing.push(place);
  if (!missing.length || (reading.first <= first && end <= reading.end)) return;
  // A jump wants its rows at once, and no more; who scrolls on wants those beyond the edge, too.
  const around = missing.length === end - first ? 2 : AROUND;
  const offset = Math.max(0, first - around);
  void read(offset, Math.min(PAGE, end - offset + around));
}

/** @param {boolean} away from the top */
export function setScrolled(away) {
  if (away === scrolled.peek()) return;
  scrolled.value = away;
  anchor = away && route.peek().sort === "-created" ? state.peek().places.get(0) ?? null : null;
  if (!away) void refresh();
}

/** Keep the list fresh from now on. */
export function startList() {
  effect(() => {
    listKey.value;
    anchor = null;
    scrolled.value = false;
    chosen.value = new Set();
    cursor.value = -1;
    dispatch({type: "view"});
    visible = {...visible, first: 0};
    void refresh();
  });
  let {counts, stale} = state.peek();
  effect(() => {
    const next = state.value;
    if (next.stale !== stale) {
      stale = next.stale;
      void refresh();
    } else if (next.counts !== counts && listIsShown() && matters(counts, next.counts)) refreshSoon();
    counts = next.counts;
  });
  effect(() => {
    if (link.value.status === "live" && listError.peek()) void refresh();
  });
  let seq = -1;
  setInterval(() => {
    if (state.peek().seq !== seq && !scrolled.peek() && listIsShown()) refreshSoon();
    ({seq} = state.peek());
  }, HEAL_MS);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refreshSoon());
}

const listIsShown = () => document.visibilityState === "visible" && route.peek().page === "tasks";

/** Can these new counts have moved or added rows? @param {Record<string, number>} before @param {Record<string, number>} after */
function matters(before, after) {
  const {status, sort} = route.peek();
  if (everything() || (!status && sort.endsWith("created"))) {
    // Finished tasks only get fewer by deletion or retry: with an insertion at the same time the total does not tell.
    return !scrolled.peek() && (total(before) !== total(after) || ["completed", "failed", "cancelled"].some((name) => (after[name] ?? 0) < (before[name] ?? 0)));
  }
  return status ? before[status] !== after[status] : true;
}

/** @param {Record<string, number>} counts */
const total = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
