/** The model servers. */
import {h, html, useEffect} from "../lib.js";
import {get} from "../api.js";
import {failureText} from "../actions.js";
import {duration, exact, seconds} from "../format.js";
import {language, t} from "../i18n.js";
import {now, sys} from "../store.js";
import {signal} from "../lib.js";
import {Slots} from "./charts.js";
/** @import {Host} from "../types.js" */

const AGAIN_MS = 10_000;
const available = signal(/** @type {ReadonlyMap<string, string[]>} */ (new Map()));
const wrong = signal("");

async function read() {
  try {
    const hosts = /** @type {Host[]} */ (await get("/api/hosts"));
    available.value = new Map(hosts.map((host) => [host.name, host.available ?? []]));
    wrong.value = "";
  } catch (error) {
    wrong.value = failureText(error);
  }
}

export function Hosts() {
  useEffect(() => {
    void read();
    const timer = setInterval(read, AGAIN_MS);
    return () => clearInterval(timer);
  }, []);
  const hosts = sys.value?.hosts;
  return html`<div class="page"><h1>${t("nav.hosts")}</h1>
    ${wrong.value ? html`<p class="box bad" role="alert">${wrong.value}</p>` : null}
    ${hosts === undefined ? html`<p class="muted">${t("drawer.loading")}</p>` : hosts.length === 0 ? html`<p>${t("host.none")}</p>`
      : html`<div class="cards">${hosts.map((host) => h(Card, {host, key: host.name}))}</div>`}</div>`;
}

/** @param {{host: Host}} props */
function Card({host}) {
  const models = available.value.get(host.name) ?? host.available ?? [], checked = seconds(host.checked_at);
  const memory = new Set([...(host.loaded ?? []), ...(host.models ?? [])]);
  return html`<article class=${host.up ? "card" : "card down"}>
    <h2><span class="mono">${host.name}</span> <span class=${host.up ? "up" : "down"}><span aria-hidden="true">${host.up ? "●" : "✕"}</span> ${t(host.up ? "host.up" : "host.down")}</span></h2>
    <p class="mono muted">${host.url}</p>
    ${host.error ? html`<p class="box bad mono error-text">${host.error}</p>` : null}
    <dl class="facts"><div><dt>${t("host.slots")}</dt><dd>${h(Slots, {host})} ${host.busy}/${host.slots}</dd></div>
      <div><dt>${t("host.version")}</dt><dd>${host.version || "–"}</dd></div>
      <div><dt>${t("host.checked")}</dt><dd title=${exact(checked)}>${checked === null ? "–" : t("time.ago", {time: duration(now.value - checked, language.value)})}</dd></div></dl>
    <h3>${t("host.loaded")}</h3>
    ${memory.size ? html`<ul class="models">${[...memory].map((name) => html`<li class="mono loaded">${name}</li>`)}</ul>` : html`<p class="muted">${t("host.noneLoaded")}</p>`}
    <h3>${t("host.available")}</h3>
    ${models.length ? html`<ul class="models">${models.map((name) => html`<li class="mono">${name}</li>`)}</ul>` : html`<p class="muted">${t("host.noneAvailable")}</p>`}
  </article>`;
}
