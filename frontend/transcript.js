/** The text of one task as it arrives: what is new, what is heard twice, what is missing. Pure. */

/** @typedef {"content" | "thinking"} Kind */

/** Characters as the server counts them: code points. @param {string} text */
export function length(text) {
  let pairs = 0;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xd800) pairs++;
  return text.length - pairs;
}

/** @param {string} text @param {number} characters */
export function from(text, characters) {
  let i = 0;
  for (let left = characters; left > 0 && i < text.length; left--) i += (text.charCodeAt(i) & 0xfc00) === 0xd800 ? 2 : 1;
  return text.slice(i);
}

export class Transcript {
  attempt = 0;
  /** @type {Record<Kind, number>} */ lengths = {content: 0, thinking: 0};

  /**
   * Take a piece; return what to append, after a `reset` if a new attempt voids what was there; null if text before
   * the piece is missing.
   * @param {{attempt: number, kind: Kind, off: number, text: string}} piece
   */
  take({attempt, kind, off, text}) {
    const reset = attempt !== this.attempt;
    if (reset) {
      this.attempt = attempt;
      this.lengths = {content: 0, thinking: 0};
    }
    const known = this.lengths[kind];
    if (off > known) return null;
    const fresh = from(text, known - off);
    this.lengths[kind] = known + length(fresh);
    return {reset, kind, text: fresh};
  }
}
