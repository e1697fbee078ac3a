/** Puts the page together. */
import {Component, effect, h, html, render} from "./lib.js";
import {authorization, socketAccess} from "./api.js";
import {language, loadWords, t} from "./i18n.js";
import {startKeys} from "./keys.js";
import {seenEvent, startList, watched} from "./list.js";
import {Connection} from "./socket.js";
import {dialog, dispatch, link, now, open, places, route, skew, startClock, sys, theme} from "./store.js";
import {hear, startTask} from "./task.js";
import {Toasts} from "./views/bulk.js";
import {startCharts, Strip} from "./views/charts.js";
import {Dialogs} from "./views/dialogs.js";
import {Drawer} from "./views/drawer.js";
import {Events} from "./views/events.js";
import {Head} from "./views/head.js";
import {Hosts} from "./views/hosts.js";
import {List} from "./views/list.js";
import {Tabs} from "./views/tabs.js";
/** @import {Message} from "./types.js" */

const WATCH_MS = 60; // scrolling is over for so long before the server is told

function url() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
}

/** @param {Message} message */
function hearMessage(message) {
  if (message.type === "tok") hear(message);
  else dispatch(message);
}

const connection = new Connection(url, hearMessage, (next) => {
  // While it lives every frame moves only its time, and nobody shows that.
  if (next.status === "live" && link.peek().status === "live") return;
  now.value = Date.now() / 1000 + skew.peek();
  link.value = next;
});

/** A mistake in a view costs a sentence and a way on, not the page.
 * @extends {Component<object, {broken: boolean}>} */
class App extends Component {
  state = {broken: false};

  /** @param {unknown} error */
  componentDidCatch(error) {
    console.error(error);
    this.setState({broken: true});
  }

  render() {
    if (this.state.broken) return html`<div class="notice" role="alert"><p>${t("page.broken")}</p><button onClick=${() => location.reload()}>${t("page.reload")}</button></div>`;
    return h(Page, {});
  }
}

function Page() {
  const {page, id} = route.value;
  const main = page === "hosts" ? h(Hosts, {}) : page === "events" ? h(Events, {})
    : html`${h(Strip, {})}${h(Tabs, {})}<div class=${id ? "body with-drawer" : "body"}>${h(List, {})}${h(Drawer, {})}</div>`;
  return html`${h(Head, {retry: () => connection.open()})}<main class=${`main page-${page}`}><h1 class="hidden">oq</h1>${main}${h(Toasts, {})}</main>${h(Dialogs, {})}`;
}

function startWatching() {
  let timer = 0;
  effect(() => {
    const {first, count} = watched.value, task = open.value?.id ?? null;
    /** @type {string[]} */ const ids = [];
    for (let place = first; place < first + count; place++) {
      const id = places.value.get(place);
      if (id) ids.push(id);
    }
    clearTimeout(timer);
    timer = setTimeout(() => connection.watch(ids, task, seenEvent()), WATCH_MS);
  });
}

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});
effect(() => {
  document.title = `${link.value.status === "lost" ? "✕ " : sys.value?.paused ? "❚❚ " : ""}oq`;
});
await loadWords();
effect(() => {
  language.value;
  void loadWords();
});
startClock();
startKeys();
startList();
startTask();
startCharts();
startWatching();
connection.open();
render(h(/** @type {any} */ (App), {}), /** @type {HTMLElement} */ (document.getElementById("app")));
void fetch("/api/status", {headers: authorization()}).then(({status}) => {
  if (status === 401) dialog.value = {kind: "token"};
}, () => {});
