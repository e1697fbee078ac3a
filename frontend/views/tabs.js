/** Status tabs with counts, and the filter. */
import {h, html, useEffect, useRef, useState} from "../lib.js";
import {STATUSES} from "../filter.js";
import {count} from "../format.js";
import {t} from "../i18n.js";
import {complete, counts, epoch, found, fresh, go, route, total} from "../store.js";

const PAUSE_MS = 200; // of typing, before the list is asked for

export function Tabs() {
  const {status, filter} = route.value;
  /** @param {import("../types.js").Status | null} name @param {number} number */
  const tab = (name, number) => html`<button class="tab" aria-pressed=${status === name ? "true" : "false"} onClick=${() => go({status: name, id: route.peek().id})}>
    ${t(name ? `status.${name}` : "status.all")} <span class="number">${epoch.value === null ? "…" : count(number)}</span></button>`;
  return html`<div class="tabs"><div class="tab-list" role="group" aria-label=${t("tabs.label")}>${[tab(null, total.value), ...STATUSES.map((name) => tab(name, counts.value[name]))]}</div>
    ${filter && found.value !== null ? html`<span class="matches" role="status">${t(complete.value ? "filter.matches" : "filter.atLeast", {count: count(found.value + fresh.value)})}</span>` : null}
    ${h(FilterBox, {})}</div>`;
}

function FilterBox() {
  const {filter} = route.value;
  const [text, setText] = useState(filter);
  const timer = useRef(0), typed = useRef(filter);
  useEffect(() => {
    if (typed.current !== filter) {
      typed.current = filter;
      setText(filter);
    }
  }, [filter]);
  /** @param {string} value @param {number} pause */
  const change = (value, pause) => {
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      typed.current = value.trim();
      go({filter: value.trim()}, true);
    }, pause);
  };
  return html`<div class="filter"><input type="search" id="filter" aria-label=${t("filter.label")} placeholder=${t("filter.hint")} title=${t("filter.help")} value=${text}
      autocomplete="off" spellcheck=${false}
      onInput=${(/** @type {InputEvent} */ event) => change(/** @type {HTMLInputElement} */ (event.target).value, PAUSE_MS)}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          if (text) change("", 0);
          else /** @type {HTMLElement} */ (event.target).blur();
        } else if (event.key === "Enter") {
          change(text, 0);
          document.getElementById("rows")?.focus();
        }
      }} /></div>`;
}
