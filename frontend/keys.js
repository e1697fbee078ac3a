/** The keyboard: one table of what each key does outside of fields and dialogs. And double clicks, which do nothing twice. */
import {actOnChosen, actOnOne, chosenCount} from "./actions.js";
import {chosen, cursor, dialog, go, route, state, toast} from "./store.js";
import {choose, toTop} from "./views/list.js";

const LEVELS = {1: 1, 2: 5, 3: 10, 4: 15};
const TWICE_MS = 800;
let gAt = -Infinity;

/** The task that a key means: the open one, else the one with the cursor. */
function meant() {
  return route.peek().id ? state.peek().open?.id ?? null : state.peek().places.get(cursor.peek()) ?? null;
}

/** @param {import("./actions.js").Action} action @param {number} [priority] */
async function act(action, priority) {
  if (chosenCount()) {
    actOnChosen(action, priority);
    return;
  }
  const id = meant();
  if (!id) return;
  const wrong = await actOnOne(id, action, priority);
  if (wrong) toast(wrong, true);
}

/** @param {number} step */
function move(step) {
  const {found} = state.peek();
  if (!found) return;
  cursor.value = Math.max(0, Math.min(found - 1, cursor.peek() + step));
  document.getElementById("rows")?.focus({preventScroll: true});
  const {id} = route.peek(), next = state.peek().places.get(cursor.peek());
  if (id && next) go({id: next}, true);
}

/** One layer back. */
function back() {
  if (route.peek().id) go({id: null});
  else if (chosenCount()) chosen.value = new Set();
  else if (route.peek().page !== "tasks") go({page: "tasks"});
  else cursor.value = -1;
}

/** @type {Record<string, (event: KeyboardEvent) => unknown>} */
const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  PageDown: () => move(20), PageUp: () => move(-20), Home: () => move(-Infinity), End: () => move(Infinity),
  Enter: () => {
    const id = state.peek().places.get(cursor.peek());
    if (id) go({page: "tasks", id});
  },
  x: () => {
    const id = state.peek().places.get(cursor.peek());
    if (id) choose(id, cursor.peek(), false);
  },
  c: () => act("cancel"), r: () => act("retry"),
  1: () => act("priority", LEVELS[1]), 2: () => act("priority", LEVELS[2]), 3: () => act("priority", LEVELS[3]), 4: () => act("priority", LEVELS[4]),
  g: ({timeStamp}) => {
    if (timeStamp - gAt < TWICE_MS) {
      cursor.value = 0;
      toTop();
    }
    gAt = timeStamp;
  },
  n: () => (dialog.value = {kind: "new"}),
  "?": () => (dialog.value = {kind: "help"}),
  "/": () => document.getElementById("filter")?.focus(),
  Escape: back,
};
const ONLY_LIST = new Set(["j", "k", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter", "x", "c", "r", "1", "2", "3", "4", "g", "/"]);
/** On these elements the key has a meaning of its own. */
const OWN = {Enter: "a, button, summary, [role=tab]", scroll: "[role=tabpanel]"};
/** These go on while their key is held down; the others act once. */
const HELD = new Set(["j", "k", "ArrowDown", "ArrowUp", "PageDown", "PageUp"]);
/** What changes tasks. The second click of a double click would often meet the opposite: Retry becomes Cancel at the same place. */
const ACTIONS = ".actions button, .bulk button, .dialog-foot button, button.pause";
const SCROLLS = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"]);

export function startKeys() {
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (dialog.peek() || event.ctrlKey || event.metaKey || event.altKey || target.isContentEditable) return;
    const field = target.closest("input, textarea, select");
    if (field && !(field instanceof HTMLInputElement && field.type === "checkbox" && event.key !== " ")) {
      if (event.key === "Escape") /** @type {HTMLElement} */ (field).blur();
      return;
    }
    const run = KEYS[event.key];
    if (!run || (ONLY_LIST.has(event.key) && route.peek().page !== "tasks")) return;
    if (event.key === "Enter" && target.closest(OWN.Enter)) return;
    if (SCROLLS.has(event.key) && target.closest(OWN.scroll)) return;
    event.preventDefault();
    if (!event.repeat || HELD.has(event.key)) void run(event);
  });
  document.addEventListener("click", (event) => {
    if (event.detail < 2 || !(/** @type {HTMLElement} */ (event.target)).closest(ACTIONS)) return;
    event.stopPropagation();
    event.preventDefault();
  }, {capture: true});
}
