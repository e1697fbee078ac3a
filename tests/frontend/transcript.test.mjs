import assert from "node:assert/strict";
import {test} from "node:test";
import fc from "fast-check";
import {blockEnd, BLOCK} from "../../frontend/output.js";
import {from, length, Transcript} from "../../frontend/transcript.js";

test("characters are counted as the server counts them", () => {
  fc.assert(fc.property(fc.string({unit: "grapheme"}), (text) => {
    assert.equal(length(text), [...text].length);
    assert.equal(from(text, 2), [...text].slice(2).join(""));
  }));
});

test("pieces that overlap give the text once", () => {
  fc.assert(fc.property(fc.string({unit: "grapheme", maxLength: 60}), fc.array(fc.tuple(fc.nat(60), fc.nat(60))), (text, cuts) => {
    const characters = [...text], transcript = new Transcript();
    let seen = "";
    for (const [a, b] of [...cuts, [0, 60]]) {
      const [off, end] = [Math.min(a, b), Math.max(a, b)];
      const piece = transcript.take({attempt: 1, kind: "content", off, text: characters.slice(off, end).join("")});
      if (piece) seen = (piece.reset ? "" : seen) + piece.text;
      else assert.ok(off > [...seen].length);
    }
    assert.equal(seen, text);
  }));
});

test("a new attempt voids both kinds of text", () => {
  const transcript = new Transcript();
  transcript.take({attempt: 1, kind: "thinking", off: 0, text: "hm"});
  transcript.take({attempt: 1, kind: "content", off: 0, text: "old"});
  assert.deepEqual(transcript.take({attempt: 2, kind: "content", off: 0, text: "new"}), {reset: true, kind: "content", text: "new"});
  assert.equal(transcript.lengths.thinking, 0);
});

test("blocks end at newlines, lose nothing and split no character", () => {
  fc.assert(fc.property(fc.array(fc.constantFrom("😀", "a", " word", "\n", "x".repeat(900), "漢".repeat(9000))), fc.nat(BLOCK), (parts, size) => {
    const text = parts.join("");
    let rest = text, joined = "", filled = size;
    while (rest) {
      const end = blockEnd(filled, rest), block = rest.slice(0, end);
      assert.ok(end > 0);
      assert.ok((rest.charCodeAt(end - 1) & 0xfc00) !== 0xd800 || end === rest.length);
      joined += block;
      rest = rest.slice(end);
      filled = 0;
    }
    assert.equal(joined, text);
  }));
});

test("a long text without a break is never cut inside a character", () => {
  const text = "😀".repeat(20_000);
  for (const size of [0, 1]) assert.equal(text.slice(0, blockEnd(size, text)).length % 2, 0);
});
