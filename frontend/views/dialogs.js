/** Questions, help and the token, each in a modal `dialog`: the browser keeps the focus inside and Escape closes it. */
import {h, html, useLayoutEffect, useRef, useState} from "../lib.js";
import {failureText} from "../actions.js";
import {refusal, setToken} from "../api.js";
import {t} from "../i18n.js";
import {dialog} from "../store.js";
import {NewTask} from "./new.js";
/** @import {Key} from "../i18n.js" */

export function Dialogs() {
  const open = dialog.value;
  if (!open) return null;
  switch (open.kind) {
    case "new": return h(Modal, {title: t("new.title"), wide: true}, h(NewTask, {from: open.from ?? null}));
    case "help": return h(Modal, {title: t("help.title")}, h(Help, {}));
    case "token": return h(Modal, {title: t("token.title")}, h(Token, {}));
    case "confirm": return h(Modal, {title: t("confirm.title")}, h(Confirm, open));
    default: return null;
  }
}

export const closeDialog = () => (dialog.value = null);

/** @param {{title: string, wide?: boolean, children?: import("../lib.js").Child}} props */
function Modal({title, wide, children}) {
  const place = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useLayoutEffect(() => {
    const element = /** @type {HTMLDialogElement} */ (place.current);
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    element.showModal();
    return () => {
      element.close();
      before?.focus?.();
    };
  }, []);
  return html`<dialog ref=${place} class=${wide ? "wide-dialog" : ""} aria-labelledby="dialog-title" onCancel=${(/** @type {Event} */ event) => { event.preventDefault(); closeDialog(); }}>
    <div class="dialog-head"><h2 id="dialog-title" class="grow">${title}</h2><button class="square" aria-label=${t("action.close")} onClick=${closeDialog}>✕</button></div>
    ${children}</dialog>`;
}

/** @param {{text: string, action: string, danger: boolean, run: () => void}} props */
function Confirm({text, action, danger, run}) {
  return html`<p>${text}</p><div class="dialog-foot"><button onClick=${closeDialog} autofocus>${t("confirm.no")}</button>
    <button class=${danger ? "danger solid" : "primary"} onClick=${() => { closeDialog(); run(); }}>${action}</button></div>`;
}

const KEYS = /** @type {[string, Key][]} */ ([["/", "key.filter"], ["j k ↓ ↑", "key.row"], ["Enter", "key.open"], ["x", "key.select"], ["⇧ + {click}", "key.range"],
  ["c", "key.cancel"], ["r", "key.retry"], ["1 – 4", "key.priority"], ["g g", "key.top"], ["n", "key.new"], ["?", "key.help"], ["Esc", "key.back"]]);

function Help() {
  return html`<table class="keys"><tbody>${KEYS.map(([keys, what]) => html`<tr><th scope="row"><kbd>${keys.replace("{click}", t("key.click"))}</kbd></th><td>${t(what)}</td></tr>`)}</tbody></table>
    <h3>${t("help.filter")}</h3><p>${t("help.filterText")}</p>
    <p class="mono">model:llama3.2 priority:high status report<br />tag:"two words" host:gpu-a type:chat,embed</p>`;
}

/** The sign-in: a token is tried before it is taken, so that a wrong one is said here. */
function Token() {
  const [wrong, setWrong] = useState("");
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const value = String(form.get("token") ?? "").trim();
    const error = await refusal(value);
    if (error) {
      setWrong(failureText(error));
      return;
    }
    setToken(value, form.has("keep"));
    location.reload();
  };
  return html`<form class="sign-in" onSubmit=${submit}><p>${t("token.text")} <code>oq token create NAME --scope read</code></p><p>${t("token.kept")}</p>
    <label class="field">${t("token.label")}<input name="token" type="password" autocomplete="off" required autofocus /></label>
    <label><input name="keep" type="checkbox" /> ${t("token.keep")}</label>
    ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}
    <div class="dialog-foot"><button type="submit" class="primary">${t("token.save")}</button></div></form>`;
}
