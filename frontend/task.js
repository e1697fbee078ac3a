/** The task beside the list: reads it, reads it again when it changed, and hands its text on. */
import {effect, signal} from "./lib.js";
import {ApiError, ask, taskPath} from "./api.js";
import {members, object} from "./rawjson.js";
import {dialog, dispatch, route, state} from "./store.js";
import {Transcript} from "./transcript.js";
/** @import {Message, Summary} from "./types.js" */
/** @import {Kind} from "./transcript.js" */

const AGAIN_MS = 250; // changes of one moment are read together

/** The summary's members as the server wrote them: numbers in them are exact. */
export const raw = signal(/** @type {ReadonlyMap<string, string>} */ (new Map()));
export const openError = signal(/** @type {ApiError | null} */ (null));

/** @typedef {{reset: boolean, kind: Kind, text: string}} Piece */
/** @type {Set<(piece: Piece) => void>} */ const listeners = new Set();
let transcript = new Transcript();
/** @type {Record<Kind, string>} */ let heard = {content: "", thinking: ""};
let readRevision = -1;
/** @type {number | undefined} */ let timer;

/** Call *listener* with all there is, then with what comes. @param {(piece: Piece) => void} listener */
export function listen(listener) {
  listener({reset: true, kind: "thinking", text: heard.thinking});
  listener({reset: false, kind: "content", text: heard.content});
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** @param {Piece} piece */
function tell(piece) {
  if (piece.reset) heard = {content: "", thinking: ""};
  heard[piece.kind] += piece.text;
  for (const listener of listeners) listener(piece);
}

/** @param {Message & {type: "tok"}} message */
export function hear(message) {
  if (message.id !== state.peek().open?.id) return;
  const piece = transcript.take(message);
  if (piece) tell(piece);
  else void readOpen();
}

/** Text of a finished task whose pieces did not all come. @param {Summary} task */
function complete(task) {
  const attempt = task.attempts?.at(-1)?.number ?? transcript.attempt;
  for (const kind of /** @type {Kind[]} */ (["thinking", "content"])) {
    const text = (kind === "content" ? task.output : task.thinking) ?? "";
    const piece = text ? transcript.take({attempt, kind, off: 0, text}) : null;
    if (piece) tell(piece);
  }
}

export async function readOpen() {
  const {id} = route.peek();
  if (!id) return;
  try {
    const {text} = await ask(`${taskPath(id)}?view=summary`);
    if (route.peek().id !== id) return;
    const task = /** @type {Summary} */ (JSON.parse(text));
    openError.value = null;
    raw.value = members(text);
    readRevision = task.revision;
    dispatch({type: "open", task});
    complete(task);
  } catch (error) {
    if (route.peek().id !== id) return;
    if (error instanceof ApiError && error.code === "unauthorized") dialog.value = {kind: "token"};
    openError.value = /** @type {ApiError} */ (error);
  }
}

/** The whole task as text, for copies and clones. @param {string} id */
export async function wholeTask(id) {
  return members((await ask(taskPath(id))).text);
}

/** The JSON that would submit this task again. @param {ReadonlyMap<string, string>} task */
export function requestOf(task) {
  const names = ["type", "model", "payload", "priority", "options", "keep_alive", "max_retries", "timeout", "tags"];
  return object(Object.fromEntries(names.map((name) => [name, task.get(name)])));
}

export function startTask() {
  /** @type {string | null} */ let id = null;
  effect(() => {
    if (route.value.id === id) return;
    id = route.value.id;
    transcript = new Transcript();
    heard = {content: "", thinking: ""};
    raw.value = new Map();
    openError.value = null;
    readRevision = -1;
    dispatch({type: "open", task: undefined});
    void readOpen();
  });
  let {stale} = state.peek();
  effect(() => {
    const {open, stale: next} = state.value;
    if (next !== stale || (open && readRevision >= 0 && open.revision > readRevision)) {
      stale = next;
      timer ??= setTimeout(() => {
        timer = undefined;
        void readOpen();
      }, AGAIN_MS);
    }
  });
}
