/**
 * JSON as text. `JSON.parse` would round 2**53+1 and turn 1.0 into 1; what a person reads here is what was sent.
 * Works on valid JSON, as a server sends it.
 */

/** The end of the string that begins at *at*. @param {string} text @param {number} at */
function stringEnd(text, at) {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === '"') return i + 1;
  }
  return text.length;
}

/** The members of the object, each with its value's text. @param {string} text @returns {Map<string, string>} */
export function members(text) {
  const found = new Map();
  let depth = 0, key = "", start = -1;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') {
      const end = stringEnd(text, i);
      if (depth === 1 && start < 0) key = JSON.parse(text.slice(i, end));
      i = end - 1;
    } else if (c === ":" && depth === 1 && start < 0) start = i + 1;
    else if (c === "{" || c === "[") depth++;
    else if (c === "}" || c === "]" || c === ",") {
      if (depth === 1 && start >= 0 && (c === "," || c === "}")) {
        found.set(key, text.slice(start, i).trim());
        start = -1;
      }
      if (c !== ",") depth--;
    }
  }
  return found;
}

/** The same JSON, indented. Lists of numbers stay on their line. @param {string} text */
export function indented(text) {
  /** @type {string[]} */
  const out = [];
  let depth = 0, from = 0;
  const line = () => "\n" + "  ".repeat(depth);
  /** @param {number} to */
  const copy = (to) => out.push(text.slice(from, to).trim());
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') i = stringEnd(text, i) - 1;
    else if (c === "[" && /^\[[\d\s.,eE+-]*\]/.test(text.slice(i, i + 60_000))) {
      i = text.indexOf("]", i);
    } else if (c === "{" || c === "[") {
      copy(i);
      const close = /^\s*[}\]]/.exec(text.slice(i + 1, i + 20));
      if (close) {
        out.push(c + (c === "{" ? "}" : "]"));
        i += close[0].length;
      } else {
        depth++;
        out.push(c + line());
      }
      from = i + 1;
    } else if (c === "}" || c === "]") {
      copy(i);
      depth--;
      out.push(line() + c);
      from = i + 1;
    } else if (c === ",") {
      copy(i);
      out.push("," + line());
      from = i + 1;
    } else if (c === ":") {
      copy(i);
      out.push(": ");
      from = i + 1;
    }
  }
  copy(text.length);
  return out.join("");
}

/** An object's text from members' texts; undefined ones are left out. @param {Record<string, string | undefined>} fields */
export function object(fields) {
  const found = Object.entries(fields).filter(([, value]) => value !== undefined);
  return `{${found.map(([name, value]) => `${JSON.stringify(name)}: ${value}`).join(", ")}}`;
}
