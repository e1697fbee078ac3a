/** The table of tasks: a tall box in which only the rows on the screen exist. */
import {Component, computed, h, html, useEffect, useLayoutEffect, useMemo, useRef, useState} from "../lib.js";
import {age, count, duration, exact, seconds, shortError, shortId, spans} from "../format.js";
import {copy, failureText} from "../actions.js";
import {language, t, tName} from "../i18n.js";
import {listError, refresh, scrolled, setScrolled, show} from "../list.js";
import * as store from "../store.js";
import {BulkBar} from "./bulk.js";
import {PriorityMark, StatusMark} from "./icons.js";
/** @import {Task} from "../types.js" */

const {chosen, cursor, go, now, route, state} = store;

export const ROW = 30; // pixels; theme.css has the same
const MORE = 4; // rows drawn beyond the edges
/** Browsers lose precision in boxes taller than about 30 million pixels: past this a pixel is more than a pixel. */
const TALLEST = 15_000_000;

/** Chosen by clicking: where a Shift+click's range begins. */
let rangeFrom = -1;

/** @param {string} id @param {number} place @param {boolean} range */
export function choose(id, place, range) {
  const {places} = state.peek();
  const next = new Set(chosen.peek() === "all" ? places.values() : /** @type {ReadonlySet<string>} */ (chosen.peek()));
  if (range && rangeFrom >= 0) {
    for (let i = Math.min(rangeFrom, place); i <= Math.max(rangeFrom, place); i++) {
      const one = places.get(i);
      if (one) next.add(one);
    }
  } else if (!next.delete(id)) next.add(id);
  rangeFrom = place;
  chosen.value = next;
}

/** @typedef {{task: Task | null | undefined, id: string, place: number, top: number, open: boolean, at: boolean, chosen: boolean,
 *  left: boolean, language: "en" | "zh"}} RowProps */

/** One row. Drawn again only when something in it changed: two hundred changes a second must cost little.
 * @extends {Component<RowProps>} */
class Row extends Component {
  /** @param {RowProps} next */
  shouldComponentUpdate(next) {
    const before = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (this.props));
    return Object.entries(next).some(([name, value]) => before[name] !== value);
  }

  /** @param {RowProps} props */
  render({task, id, place, top, open, at, chosen: picked, left, language: words}) {
    const style = {transform: `translateY(${top}px)`};
    if (task === undefined) {
      return html`<div class="row skeleton" role="row" aria-rowindex=${place + 2} style=${style}>
        <span role="gridcell" class="c-check"></span><span role="gridcell" class="c-status"><i></i></span>
        <span role="gridcell" class="c-prompt"><i></i></span></div>`;
    }
    if (task === null) {
      return html`<div class="row left" role="row" id=${`row-${id}`} aria-rowindex=${place + 2} style=${style}><span role="gridcell" class="c-check"></span>
        <span role="gridcell" class="c-status muted">${t("row.deleted")}</span><span role="gridcell" class="c-id mono">${shortId(id)}</span></div>`;
    }
    const failed = task.error && (task.status === "failed" || task.status === "scheduled");
    const tries = task.retry_count ? task.retry_count + 1 : "";
    const classes = ["row", open && "open", at && "at", picked && "chosen", left && "left"].filter(Boolean).join(" ");
    return html`<div class=${classes} role="row" id=${`row-${id}`} aria-rowindex=${place + 2} aria-selected=${picked ? "true" : "false"}
        style=${style} onClick=${(/** @type {MouseEvent} */ event) => this.clicked(event)}>
      <span role="gridcell" class="c-check"><input type="checkbox" tabindex="-1" checked=${picked} aria-label=${t("row.select", {id: shortId(id)})} /></span>
      <span role="gridcell" class="c-status">${h(StatusMark, {status: task.status})}</span>
      <span role="gridcell" class="c-priority">${h(PriorityMark, {priority: task.priority})}</span>
      <span role="gridcell" class="c-id"><a class="mono" tabindex="-1" href=${`#/t/${id}`} title=${id}>${shortId(id)}</a></span>
      <span role="gridcell" class="c-type">${tName("type", task.type)}</span>
      <span role="gridcell" class="c-model mono" title=${task.model}>${task.model}</span>
      <span role="gridcell" class=${failed ? "c-prompt both" : "c-prompt"} title=${[task.prompt, task.error].filter(Boolean).join("\n")}>${
        failed ? html`<span>${task.prompt ?? ""}</span> <span class="error">${shortError(task.error ?? "")}</span>` : task.prompt ?? ""}</span>
      <span role="gridcell" class="c-host mono">${task.host ?? ""}</span>
      <span role="gridcell" class="c-tokens">${task.tokens === undefined ? "" : count(task.tokens)}</span>
      <span role="gridcell" class="c-try">${tries}</span>
      ${h(Age, {task, words})}
    </div>`;
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const {id, place} = this.props;
    const target = /** @type {HTMLElement} */ (event.target);
    cursor.value = place;
    if (target.closest(".c-check") || event.shiftKey) {
      if (target.tagName !== "INPUT") event.preventDefault();
      choose(id, place, event.shiftKey);
    } else if (!event.ctrlKey && !event.metaKey && !getSelection()?.toString()) {
      event.preventDefault();
      go({page: "tasks", id: route.peek().id === id ? null : id});
    }
  }
}

/** The only cell that time changes: a signal of its own writes its text, without drawing the row.
 * @param {{task: Task, words: "en" | "zh"}} props */
function Age({task, words}) {
  const text = useMemo(() => computed(() => duration(age(task, now.value), words)), [task, words]);
  const title = () => {
    const {waited, ran} = spans(task, now.peek());
    return [`${t("fact.created")} ${exact(seconds(task.created_at))}`, `${t("fact.waited")} ${duration(waited, words)}`,
      ...(ran === null ? [] : [`${t("fact.ran")} ${duration(ran, words)}`])].join("\n");
  };
  return html`<span role="gridcell" class="c-age" onMouseEnter=${(/** @type {Event} */ event) => (/** @type {HTMLElement} */ (event.target).title = title())}>${text}</span>`;
}

/** The rows' box and what stands in it when there are none. */
export function List() {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [scroll, setScroll] = useState({top: 0, height: 600});
  const found = store.found.value, places = store.places.value, tasks = store.tasks.value, view = store.view.value;
  const {status, id: open, sort} = route.value;
  const rows = found ?? Math.ceil(scroll.height / ROW);
  const height = Math.min(rows * ROW, TALLEST);
  const most = Math.max(1, height - scroll.height);
  const first = height < TALLEST ? Math.floor(scroll.top / ROW) : Math.round(scroll.top / most * Math.max(0, rows - scroll.height / ROW));
  const shift = height < TALLEST ? 0 : scroll.top - first * ROW;
  const fit = Math.ceil(scroll.height / ROW) + 1;
  const from = Math.max(0, first - MORE), end = Math.min(rows, first + fit + MORE);

  useEffect(() => {
    const element = /** @type {HTMLDivElement} */ (box.current);
    const measure = () => {
      const {scrollTop, clientHeight} = element;
      setScrolled(scrollTop > ROW);
      setScroll((before) => before.top === scrollTop && before.height === clientHeight ? before : {top: scrollTop, height: clientHeight});
    };
    element.addEventListener("scroll", measure, {passive: true});
    const watcher = new ResizeObserver(measure);
    watcher.observe(element);
    return () => {
      element.removeEventListener("scroll", measure);
      watcher.disconnect();
    };
  }, []);
  useLayoutEffect(() => box.current?.scrollTo(0, 0), [view]);
  useEffect(() => show(first, fit), [first, fit, view, found]);
  useLayoutEffect(() => {
    const at = cursor.value, element = box.current;
    if (at < 0 || !element || height >= TALLEST) return;
    const head = 30; // the header row covers the first line
    if (at * ROW < element.scrollTop) element.scrollTop = at * ROW;
    else if ((at + 1) * ROW > element.scrollTop + element.clientHeight - head) element.scrollTop = (at + 1) * ROW - element.clientHeight + head;
  }, [cursor.value]);

  const drawn = [];
  for (let place = from; place < end; place++) {
    const id = places.get(place), task = id === undefined ? undefined : tasks.get(id);
    const picked = id !== undefined && (chosen.value === "all" || chosen.value.has(id));
    drawn.push(h(/** @type {any} */ (Row), {key: id ?? `empty-${place}`, id: id ?? "", task, place, top: place * ROW + shift, open: id !== undefined && id === open,
      at: place === cursor.value, chosen: picked, left: Boolean(task && status && task.status !== status),
      language: language.value}));
  }
  const active = places.get(cursor.value);
  return html`<div class=${open ? "list narrow" : "list"}>
    <div class="rows" ref=${box} role="grid" tabindex="0" id="rows" aria-label=${t("list.label")} aria-rowcount=${rows + 1} aria-multiselectable="true"
        aria-busy=${found === null ? "true" : "false"} aria-activedescendant=${active ? `row-${active}` : undefined}>
      ${h(Header, {sort})}
      <div class="tall" role="rowgroup" style=${{height: `${height}px`}}>${drawn}</div>
    </div>
    ${h(Pill, {})}
    ${h(Notice, {})}
    ${h(BulkBar, {})}
  </div>`;
}

const COLUMNS = /** @type {const} */ (["status", "priority", "id", "type", "model", "prompt", "host", "tokens", "try", "age"]);

/** @param {{sort: string}} props */
function Header({sort}) {
  /** @param {"priority" | "age"} column @param {string} field @param {boolean} flipped */
  const sortable = (column, field, flipped) => {
    const down = `-${field}`, on = sort === field || sort === down;
    const direction = on ? ((sort === down) === flipped ? "ascending" : "descending") : "none";
    return html`<span role="columnheader" class=${`c-${column}`} aria-sort=${direction}><button class="sort" onClick=${
      () => go({sort: sort === down ? field : down})}>${t(`column.${column}`)}${on ? (direction === "ascending" ? " ↑" : " ↓") : ""}</button></span>`;
  };
  return html`<div class="row head" role="row" aria-rowindex="1">
    <span role="columnheader" class="c-check"><span class="hidden">${t("column.select")}</span></span>
    ${COLUMNS.map((column) => column === "priority" ? sortable(column, "priority", false) : column === "age" ? sortable(column, "created", true)
      : html`<span role="columnheader" class=${`c-${column}`}>${t(`column.${column}`)}</span>`)}
  </div>`;
}

/** "↑ 21 new": tasks that came in above what is shown. */
function Pill() {
  const total = store.total.value, found = store.found.value;
  const {status, filter, sort} = route.value;
  const plain = !status && !filter && sort === "-created";
  const number = plain && found !== null ? Math.max(0, total - found) : store.fresh.value;
  if (!scrolled.value || number === 0) return null;
  return html`<button class="pill" onClick=${toTop}>↑ ${t("list.new", {count: count(number)})}</button>`;
}

export function toTop() {
  document.getElementById("rows")?.scrollTo(0, 0);
  setScrolled(false);
}

/** What stands in place of rows. */
function Notice() {
  const found = store.found.value, total = store.total.value, error = listError.value;
  if (error) {
    return html`<div class=${found === null ? "notice whole" : "notice"} role="alert"><p><strong>${t("list.failed")}</strong></p><p>${failureText(error)}</p>
      <button onClick=${() => refresh()}>${t("action.again")}</button></div>`;
  }
  if (found === null || found > 0) return null;
  const {status, filter} = route.value;
  if (filter || (status && total > 0)) {
    return html`<div class="notice"><p><strong>${filter ? t("list.noMatch") : t("list.noneOf", {status: t(`status.${/** @type {import("../types.js").Status} */ (status)}`)})}</strong></p>
      ${filter ? html`<button onClick=${() => go({filter: ""})}>${t("list.clear")}</button>` : html`<button onClick=${() => go({status: null})}>${t("list.showAll")}</button>`}</div>`;
  }
  const command = `oq --server ${location.origin} submit chat -m llama3.2 "Why is the sky blue?"`;
  return html`<div class="notice"><p><strong>${t("list.empty")}</strong></p><p>${t("list.emptyHint")}</p>
    <p class="command"><code>${command}</code> <button onClick=${() => copy(command, "copied.command")}>${t("action.copy")}</button></p></div>`;
}
