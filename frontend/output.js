/**
 * A growing text in the page. One growing element costs more the longer it is; blocks of about a thousand characters,
 * each ended by a newline and never touched again, cost the same at any length. New text is drawn ten times a second.
 */
export const BLOCK = 1000; // characters, then the next newline ends the block
const LONGEST = 16_000; // of a text without newlines
const FLUSH_MS = 100;

export class Output {
  /** @type {string[]} */ #pending = [];
  /** @type {Text | null} */ #last = null;
  /** @type {number | undefined} */ #timer;
  text = "";

  /** @param {HTMLElement} place @param {() => void} drawn called after each drawing */
  constructor(place, drawn) {
    this.place = place;
    this.drawn = drawn;
  }

  /** @param {string} text */
  append(text) {
    if (!text) return;
    this.text += text;
    this.#pending.push(text);
    this.#timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  clear() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.text = "";
    this.#pending = [];
    this.#last = null;
    this.place.replaceChildren();
  }

  flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    let rest = this.#pending.join("");
    this.#pending = [];
    const blocks = document.createDocumentFragment();
    while (rest) {
      const last = this.#last ??= this.#block(blocks);
      const end = blockEnd(last.length, rest);
      last.appendData(rest.slice(0, end));
      rest = rest.slice(end);
      if (rest || last.length >= BLOCK && last.data.endsWith("\n")) this.#last = null;
    }
    this.place.append(blocks);
    this.drawn();
  }

  /** @param {DocumentFragment} blocks */
  #block(blocks) {
    const text = document.createTextNode(""), block = document.createElement("div");
    block.className = "block";
    block.append(text);
    blocks.append(block);
    return text;
  }
}

/** How much of *text* belongs to a block that has *size* characters. @param {number} size @param {string} text */
export function blockEnd(size, text) {
  const newline = text.indexOf("\n", Math.max(0, BLOCK - size - 1));
  const most = LONGEST - size;
  if (newline >= 0 && newline < most) return newline + 1;
  if (text.length <= most) return text.length;
  const space = text.lastIndexOf(" ", most);
  let end = space > 0 ? space + 1 : Math.max(1, most);
  if ((text.charCodeAt(end - 1) & 0xfc00) === 0xd800) end++;
  return end;
}
