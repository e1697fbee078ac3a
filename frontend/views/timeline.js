/** What happened to a task, in order. */
import {html} from "../lib.js";
import {duration, exact, seconds, when} from "../format.js";
import {language, t, tName} from "../i18n.js";
import {now} from "../store.js";
/** @import {Summary} from "../types.js" */

/** @typedef {{at: number | null, tone: string, title: string, more: string, error?: string}} Moment */

/** @param {Summary} task @returns {Moment[]} */
function moments(task) {
  /** @type {Moment[]} */
  const found = [{at: seconds(task.created_at), tone: "plain", title: t("moment.submitted"), more: (task.tags ?? []).join(", ")}];
  for (const attempt of task.attempts ?? []) {
    const started = seconds(attempt.started_at), ended = seconds(attempt.finished_at);
    found.push({at: started, tone: "running", title: t("moment.started", {number: attempt.number}), more: attempt.host});
    if (ended === null || started === null) continue;
    const good = attempt.outcome === "succeeded" || attempt.outcome === "completed";
    found.push({at: ended, tone: good ? "completed" : attempt.outcome === "failed" || attempt.error ? "failed" : "plain",
      title: `${tName("outcome", attempt.outcome ?? "")} #${attempt.number}`,
      more: `${attempt.host} ${duration(ended - started, language.value)}`, error: attempt.error});
  }
  const {status} = task;
  if (status === "running" && !(task.attempts ?? []).some((one) => !one.finished_at)) {
    found.push({at: seconds(task.started_at), tone: "running", title: t("status.running"), more: task.host ?? ""});
  }
  if (status === "scheduled") found.push({at: seconds(task.run_at), tone: "scheduled", title: t("moment.due"), more: ""});
  if (status === "cancelled") found.push({at: seconds(task.completed_at), tone: "plain", title: t("status.cancelled"), more: ""});
  return found;
}

/** @param {{task: Summary}} props */
export function Timeline({task}) {
  return html`<ol class="timeline">${moments(task).map(({at, tone, title, more, error}) => html`<li class=${`m-${tone}`}>
    <div><strong>${title}</strong> <bdi class="mono muted">${more}</bdi>${error ? html`<p class="mono error-text">${error}</p>` : null}</div>
    <time title=${exact(at)} datetime=${at === null ? undefined : new Date(at * 1000).toISOString()}>${when(at, now.value)}<br />
      <small class="muted">${at === null ? "" : at > now.value ? t("time.in", {time: duration(at - now.value, language.value)}) : t("time.ago", {time: duration(now.value - at, language.value)})}</small></time></li>`)}</ol>`;
}
