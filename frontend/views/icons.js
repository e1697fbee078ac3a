/** Status and priority: icon, word and colour together, so that none of them is needed alone. */
import {html} from "../lib.js";
import {priorityOf} from "../format.js";
import {t} from "../i18n.js";
/** @import {Status} from "../types.js" */

export const STATUS_ICON = {pending: "○", scheduled: "◷", running: "◐", completed: "●", failed: "✕", cancelled: "⊘"};

/** @param {{status: Status}} props */
export function StatusMark({status}) {
  return html`<span class=${`status s-${status}`}><span class="icon" aria-hidden="true">${STATUS_ICON[status]}</span> ${t(`status.${status}`)}</span>`;
}

/** @param {{priority: number}} props */
export function PriorityMark({priority}) {
  const {level, name} = priorityOf(priority);
  return html`<span class=${`priority p-${level}`}><span class="fill" aria-hidden="true"></span>${name ? t(`priority.${level}`) : priority}</span>`;
}
