/** Four small charts over the time chosen, and the hosts beside them. */
import {computed, effect, h, html, signal, useEffect, useRef} from "../lib.js";
import {get} from "../api.js";
import {clock, count, duration, rate} from "../format.js";
import {language, t} from "../i18n.js";
import {columns, latest, perSecond, recent, upTo} from "../series.js";
import {go, link, samples as recentSamples, span, sys, theme} from "../store.js";
import {samplesOf} from "../state.js";
/** @import {Host, Sample} from "../types.js" */
/** @import {Lines} from "../series.js" */

const SPANS = /** @type {const} */ (["5m", "1h", "24h"]);
const STEP_SECONDS = {"5m": 1, "1h": 15, "24h": 300};
const SPAN_SECONDS = {"5m": 300, "1h": 3600, "24h": 86_400};
const long = signal(/** @type {Sample[]} */ ([]));
const samples = computed(() => (span.value === "5m" ? recentSamples.value : long.value));

/** Read the longer series, now and whenever there can be a new sample. */
export function startCharts() {
  effect(() => {
    const window = span.value;
    if (window === "5m" || link.value.status === "connecting") return undefined;
    const read = async () => {
      try {
        const found = samplesOf(await get(`/api/series?window=${window}`));
        if (span.peek() === window) long.value = upTo(found, recentSamples.peek().at(-1));
      } catch {
        // Not there now: the connection's state tells, and the next reading heals it.
      }
    };
    void read();
    const timer = setInterval(read, STEP_SECONDS[window] * 1000);
    return () => clearInterval(timer);
  });
}

/** @typedef {{name: "waiting" | "finished" | "tokens" | "latency", colour: string, lines: (samples: Sample[]) => Lines,
 *  now: (lines: Lines) => number | null, say: (value: number | null) => string}} Kind */

/** @param {number | null} value */
const saySeconds = (value) => (value === null ? "–" : duration(value, language.value));
/** @type {Kind[]} */
const KINDS = [
  {name: "waiting", colour: "--pending", lines: (all) => columns(all, ["waiting"]), now: ([, values = []]) => latest(values), say: (value) => (value === null ? "–" : count(value))},
  {name: "finished", colour: "--completed", lines: (all) => perSecond(all, "finished"), now: ([, values = []]) => recent(values, 5), say: rate},
  {name: "tokens", colour: "--running", lines: (all) => perSecond(all, "tokens"), now: ([, values = []]) => recent(values, 5), say: rate},
  {name: "latency", colour: "--scheduled", lines: (all) => columns(all, ["run_p50", "run_p95"]), now: ([, values = []]) => latest(values), say: saySeconds},
];

export function Strip() {
  return html`<section class="strip" aria-label=${t("charts.label")}>
    ${KINDS.map((kind) => h(Chart, {kind, key: kind.name}))}
    <div class="side"><div class="spans" role="group" aria-label=${t("charts.span")}>${SPANS.map((name) =>
      html`<button aria-pressed=${span.value === name ? "true" : "false"} onClick=${() => (span.value = name)}>${t(`span.${name}`)}</button>`)}</div>
      ${h(HostStrip, {})}</div>
  </section>`;
}

/** @param {{kind: Kind}} props */
function Chart({kind}) {
  const place = useRef(/** @type {HTMLElement | null} */ (null)), label = useRef(/** @type {HTMLElement | null} */ (null));
  const lines = kind.lines(samples.value), value = kind.say(kind.now(kind.lines(recentSamples.value))); // "now" is now over any span
  const data = useRef(lines);
  data.current = lines;
  const chart = useRef(/** @type {import("../vendor/uplot.js").default | null} */ (null));
  useEffect(() => {
    let gone = false;
    const element = /** @type {HTMLElement} */ (place.current), hint = /** @type {HTMLElement} */ (label.current);
    const watcher = new ResizeObserver(() => chart.current?.setSize({width: element.clientWidth, height: element.clientHeight}));
    void import("../vendor/uplot.js").then(({default: UPlot}) => {
      if (gone) return;
      chart.current = new UPlot(options(kind, element, (at) => {
        const [times = [], ...values] = data.current;
        const shown = at === null ? null : `${clock(times[at] ?? null).slice(0, span.peek() === "24h" ? 5 : 8)} ${values.map((line) => kind.say(line[at] ?? null)).join(" / ")}`;
        hint.textContent = shown ?? "";
      }), data.current, element);
      watcher.observe(element);
    });
    return () => {
      gone = true;
      watcher.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [theme.value, dark.value]);
  useEffect(() => {
    if (document.visibilityState === "visible") chart.current?.setData(lines);
  }, [samples.value]);
  const title = t(`chart.${kind.name}`);
  return html`<div class=${`chart chart-${kind.name}`}><div class="chart-head"><span>${title}</span> <span class="chart-hint mono" ref=${label}></span> <strong>${value}</strong></div>
    <div class="plot" ref=${place} role="img" aria-label=${t("chart.aria", {title, value, span: t(`span.${span.value}`)})}></div></div>`;
}

const darkQuery = matchMedia("(prefers-color-scheme: dark)");
const dark = signal(darkQuery.matches);
darkQuery.addEventListener("change", () => (dark.value = darkQuery.matches));

/** The span chosen up to the newest sample, however short the server has run: two minutes do not look like a day.
 * @param {unknown} _ @param {number | null} first @param {number | null} last */
function wholeSpan(_, first, last) {
  const end = last ?? first ?? Date.now() / 1000;
  return [end - SPAN_SECONDS[span.peek()], end];
}

/** @param {Kind} kind @param {HTMLElement} element @param {(at: number | null) => void} pointed */
function options(kind, element, pointed) {
  const colour = getComputedStyle(element).getPropertyValue(kind.colour).trim();
  const line = {stroke: colour, width: 1.5, points: {show: false}};
  return {
    width: element.clientWidth, height: element.clientHeight, legend: {show: false}, padding: [3, 0, 0, 0],
    axes: [{show: false}, {show: false}], scales: {x: {time: true, range: wholeSpan}, y: {range: (/** @type {unknown} */ _, /** @type {number | null} */ low, /** @type {number | null} */ high) =>
      kind.name === "waiting" && high && low && (high - low) < high / 10 ? [low - (high - low) - 1, high + 1] : [0, Math.max(1e-9, (high ?? 1) * 1.08) || 1]}},
    cursor: {y: false, drag: {x: false, y: false}, points: {size: 6}},
    series: [{}, {...line, fill: `${colour}22`}, ...(kind.name === "latency" ? [{...line, dash: [3, 3]}] : [])],
    hooks: {setCursor: [(/** @type {any} */ plot) => pointed(plot.cursor.idx ?? null)]},
  };
}

/** Busy slots and loaded models of each host; one that is down is red. */
function HostStrip() {
  const hosts = sys.value?.hosts ?? [];
  return html`<a class="hosts-strip" href="#/hosts" onClick=${(/** @type {Event} */ event) => { event.preventDefault(); go({page: "hosts"}); }}>
    ${hosts.slice(0, 4).map((host) => html`<span class=${host.up ? "host" : "host down"}><span class="mono name" title=${host.name}>${host.name}</span>
      ${h(Slots, {host})}<span class="muted what">${host.up ? `${host.busy}/${host.slots}${loaded(host)}` : t("host.down")}</span></span>`)}
    ${hosts.length > 4 ? html`<span class="muted">${t("host.more", {count: hosts.length - 4})}</span>` : null}</a>`;
}

/** @param {Host} host */
function loaded(host) {
  const names = host.loaded?.length ? host.loaded : host.models;
  return names.length ? ` · ${names[0]}${names.length > 1 ? ` +${names.length - 1}` : ""}` : "";
}

/** @param {{host: Host}} props */
export function Slots({host}) {
  const shown = Math.min(host.slots, 8);
  const busy = Math.min(shown, Math.ceil(host.busy / host.slots * shown));
  return html`<span class="slots" aria-hidden="true">${Array.from({length: shown}, (_, i) => html`<i class=${i < busy ? "busy" : ""}></i>`)}</span>`;
}
