/** The page's words in the reader's language. Only the language in use is loaded. */
import {signal} from "./lib.js";
import {preference} from "./store.js";
/** @typedef {keyof typeof import("./i18n/en.js").default} Key */

const LANGUAGES = /** @type {const} */ (["en", "zh"]);
const preferred = navigator.languages.some((name, index) => index === 0 && name.startsWith("zh")) ? "zh" : "en";
export const language = preference("language", /** @type {"en" | "zh"} */ (preferred), LANGUAGES);
const words = signal(/** @type {Record<string, string>} */ ({}));
/** Of what the server says in English, by `code` or `code:field`. @type {Record<string, string>} */ let server = {};

/** Load the words of the language in use; wait for it before the first drawing. */
export async function loadWords() {
  const found = language.peek() === "zh" ? await import("./i18n/zh.js") : {...await import("./i18n/en.js"), server: {}};
  server = found.server;
  words.value = found.default;
  document.documentElement.lang = language.peek() === "zh" ? "zh-CN" : "en";
}

export async function switchLanguage() {
  language.value = language.peek() === "zh" ? "en" : "zh";
  await loadWords();
}

/** The words for *key*, with each `{name}` filled in. @param {Key} key @param {Record<string, string | number>} values */
export function t(key, values = {}) {
  return (words.value[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Words for a name that the server says, or the name where there are none. @param {string} group @param {string} name */
export function tName(group, name) {
  return words.value[`${group}.${name}`] ?? name;
}

/** What the server refused, in the reader's language; its own words follow where they say more. @param {{error: string, code: string, field?: string | null}} answer */
export function tRefusal({error, code, field}) {
  const exact = server[`${code}:${field?.replace(/^tags\[\d+\]$/, "tags")}`];
  return exact ?? (server[code] ? `${server[code]}（${error}）` : error);
}
