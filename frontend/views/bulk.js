/** The bar for chosen tasks at the foot of the list, and the toasts. */
import {html} from "../lib.js";
import {actOnChosen, chosenCount} from "../actions.js";
import {count} from "../format.js";
import {t} from "../i18n.js";
import {chosen, dismiss, found, fresh, toasts} from "../store.js";
import {priorityWord} from "./drawer.js";

export function BulkBar() {
  const number = chosenCount();
  if (number === 0) return null;
  const all = (found.value ?? 0) + fresh.value;
  return html`<div class="bulk" role="toolbar" aria-label=${t("bulk.label")}>
    <strong role="status">${t("bulk.chosen", {count: count(number)})}</strong>
    ${chosen.value !== "all" && all > number ? html`<button class="link" onClick=${() => (chosen.value = "all")}>${t("bulk.all", {count: count(all)})}</button>` : null}
    <button onClick=${() => actOnChosen("retry")}>${t("action.retry")}</button>
    <label><span class="hidden">${t("column.priority")}</span><select value="" onChange=${(/** @type {Event} */ event) => {
      const select = /** @type {HTMLSelectElement} */ (event.target);
      if (select.value) actOnChosen("priority", Number(select.value));
      select.value = "";
    }}><option value="">${t("column.priority")}…</option>${[15, 10, 5, 1].map((level) => html`<option value=${level}>${priorityWord(level)}</option>`)}</select></label>
    <button class="danger" onClick=${() => actOnChosen("cancel")}>${t("action.cancel")}</button>
    <button class="danger" onClick=${() => actOnChosen("delete")}>${t("action.delete")}</button>
    <button onClick=${() => (chosen.value = new Set())}>${t("bulk.clear")} <kbd>Esc</kbd></button></div>`;
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map(({id, text, bad}) => html`<div key=${id} class=${bad ? "toast bad" : "toast"}>
    <span>${text}</span><button class="bare" aria-label=${t("action.dismiss")} onClick=${() => dismiss(id)}>✕</button></div>`)}</div>`;
}
