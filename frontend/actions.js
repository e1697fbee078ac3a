/** What a person can do to tasks and the queue; each says in a toast how it went. */
import {ApiError, ask, post, taskPath} from "./api.js";
import {count} from "./format.js";
import {t, tRefusal} from "./i18n.js";
import {refresh, shownConditions} from "./list.js";
import {chosen, dialog, dispatch, found, fresh, go, route, state, toast} from "./store.js";
/** @import {Key} from "./i18n.js" */

/** @typedef {"cancel" | "retry" | "delete" | "priority"} Action */

/** @param {unknown} error */
export function failureText(error) {
  if (error instanceof ApiError) return error.status === 0 ? t("error.unreachable") : tRefusal({error: error.message, code: error.code, field: error.field});
  return error instanceof Error ? error.message : String(error);
}

/** @param {() => Promise<unknown>} run */
async function attempt(run) {
  try {
    await run();
  } catch (error) {
    if (error instanceof ApiError && error.code === "unauthorized") dialog.value = {kind: "token"};
    toast(failureText(error), true);
  }
}

/** How many tasks an action on the chosen ones means. */
export function chosenCount() {
  const {value} = chosen;
  return value === "all" ? (found.value ?? 0) + fresh.value : value.size;
}

/** Do it to the chosen tasks, or after a question if it cannot be undone. @param {Action} action @param {number} [priority] */
export function actOnChosen(action, priority) {
  const which = chosen.peek(), number = chosenCount();
  if (number === 0) return;
  const body = which === "all"
    ? {action, priority, filter: shownConditions(), expect: state.peek().complete ? number : undefined} : {action, priority, ids: [...which]};
  const run = () => attempt(async () => {
    const {done, skipped, errors} = await post("/api/tasks/bulk", body);
    chosen.value = new Set();
    const counts = t(skipped ? "toast.doneSkipped" : "toast.done", {action: t(`did.${action}`), done: count(done), skipped: count(skipped)});
    toast(skipped && errors[0] ? `${counts} ${tRefusal(errors[0])}` : counts, done === 0);
    void refresh();
  });
  if (action === "retry" || action === "priority") void run();
  else {
    const text = t(number === 1 ? `confirm.${action}.one` : `confirm.${action}`, {count: count(number)});
    dialog.value = {kind: "confirm", text, action: t(`action.${action}`), danger: true, run};
  }
}

/** @param {string} id @param {Action} action @param {number} [priority] @returns {Promise<string | null>} what went wrong */
export async function actOnOne(id, action, priority) {
  try {
    if (action === "delete") await ask(taskPath(id), {method: "DELETE"});
    else await post(`${taskPath(id)}/${action}`, action === "priority" ? {priority} : undefined);
    toast(t("toast.did", {action: t(`did.${action}`), id: id.slice(-8)}));
    if (action === "delete") {
      if (route.peek().id === id) go({id: null});
      void refresh();
    }
    return null;
  } catch (error) {
    if (error instanceof ApiError && error.code === "unauthorized") dialog.value = {kind: "token"};
    return failureText(error);
  }
}

/** Delete after a question. @param {string} id */
export function deleteOne(id) {
  dialog.value = {kind: "confirm", text: t("confirm.delete.one", {count: 1}), action: t("action.delete"), danger: true,
    run: () => attempt(async () => {
      const wrong = await actOnOne(id, "delete");
      if (wrong) throw new Error(wrong);
    })};
}

export function togglePause() {
  const paused = state.peek().sys?.paused ?? false;
  return attempt(async () => {
    await post(`/api/queue/${paused ? "resume" : "pause"}`);
    const {sys} = state.peek();
    if (sys) dispatch({type: "sys", ...sys, paused: !paused, draining: paused ? false : sys.draining});
  });
}

/** @param {string} text @param {Key} said */
export async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages from localhost and https have the clipboard
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  toast(t(said));
}
