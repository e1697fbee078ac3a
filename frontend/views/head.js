/** The top of the page: whether what it shows is true now, the queue's switch, and the page's own. */
import {h, html} from "../lib.js";
import {togglePause} from "../actions.js";
import {clock, duration} from "../format.js";
import {language, switchLanguage, t} from "../i18n.js";
import {dialog, go, link, now, restarted, route, skew, sys, theme} from "../store.js";
/** @import {Route} from "../types.js" */

const THEMES = /** @type {const} */ ({auto: "light", light: "dark", dark: "auto"});
const THEME_ICON = {auto: "◑", light: "☀", dark: "☾"};

/** @param {{retry: () => void}} props */
export function Head({retry}) {
  const {page} = route.value;
  const paused = sys.value?.paused || sys.value?.draining;
  const other = language.value === "zh" ? "English" : "中文";
  return html`<header class="top">
    <a class="logo" href="#/">oq</a>
    ${h(LivePill, {})}
    <nav aria-label=${t("nav.label")}>${/** @type {Route["page"][]} */ (["tasks", "hosts", "events"]).map((name) =>
      html`<a href=${name === "tasks" ? "#/" : `#/${name}`} aria-current=${page === name ? "page" : undefined}
        onClick=${(/** @type {Event} */ event) => { event.preventDefault(); go({page: name, id: null}); }}>${t(`nav.${name}`)}</a>`)}</nav>
    <span class="grow"></span>
    <button class="pause" disabled=${!sys.value} aria-pressed=${paused ? "true" : "false"} onClick=${togglePause}>
      <span aria-hidden="true">${paused ? "▶" : "❚❚"}</span> <span class="wide">${t(paused ? "queue.resume" : "queue.pause")}</span></button>
    <button class="primary new" onClick=${() => (dialog.value = {kind: "new"})}>
      <span aria-hidden="true">+</span> <span class="wide">${t("new.title")} <kbd aria-hidden="true">n</kbd></span></button>
    <button class="square" lang=${language.value === "zh" ? "en" : "zh-CN"} aria-label=${other} title=${other} onClick=${switchLanguage}>${language.value === "zh" ? "EN" : "中"}</button>
    <button class="square" aria-label=${t("theme.label", {theme: t(`theme.${theme.value}`)})} title=${t("theme.label", {theme: t(`theme.${theme.value}`)})}
      onClick=${() => (theme.value = THEMES[theme.peek()])}>${THEME_ICON[theme.value]}</button>
    <button class="square" aria-label=${t("help.title")} title=${t("help.title")} onClick=${() => (dialog.value = {kind: "help"})}>?</button>
  </header>
  ${h(Banners, {retry})}`;
}

/** "live", or how old what is shown is. */
function LivePill() {
  const {status, at} = link.value;
  if (status === "live") return html`<span class="live on" role="status"><span aria-hidden="true">●</span> ${t("link.live")}</span>`;
  if (at === null) return html`<span class="live" role="status"><span aria-hidden="true">○</span> ${t("link.connecting")}</span>`;
  return html`<span class="live off" role="status"><span aria-hidden="true">○</span> ${t("link.age", {age: duration(now.value - skew.value - at / 1000, language.value)})}</span>`;
}

/** @param {{retry: () => void}} props */
function Banners({retry}) {
  const {status, at, retryAt, reason} = link.value, system = sys.value;
  const banners = [];
  if (status === "lost") {
    const wait = retryAt === null ? null : Math.max(0, Math.ceil(retryAt / 1000 - (now.value - skew.value)));
    const since = at === null ? t("banner.never") : t("banner.since", {time: clock(at / 1000)});
    const next = wait === null ? t("banner.connecting") : t("banner.again", {seconds: wait});
    banners.push(html`<div class="banner bad" role="alert"><span>${t(reason ? "banner.stopped" : "banner.lost")} ${since} ${next}</span>
      <button onClick=${retry}>${t("banner.now")}</button></div>`);
  }
  if (system && !system.storage_ok) banners.push(html`<div class="banner bad" role="alert">${t("banner.storage")}</div>`);
  if (system?.draining) banners.push(html`<div class="banner warn" role="status">${t("banner.draining")}</div>`);
  else if (system?.paused) banners.push(html`<div class="banner warn" role="status"><span aria-hidden="true">❚❚</span> ${t("banner.paused")}</div>`);
  if (restarted.value) {
    banners.push(html`<div class="banner" role="status"><span>${t("banner.restarted")}</span>
      <button onClick=${() => (restarted.value = false)}>${t("action.dismiss")}</button></div>`);
  }
  return banners;
}
