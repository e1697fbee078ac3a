import assert from "node:assert/strict";
import {readdirSync, readFileSync} from "node:fs";
import {test} from "node:test";
import en from "../../frontend/i18n/en.js";
import zh, {server} from "../../frontend/i18n/zh.js";

const blanks = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();

test("both languages have the same keys", () => assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort()));

test("both languages fill in the same values", () => {
  for (const key of Object.keys(en)) assert.deepEqual(blanks(zh[key]), blanks(en[key]), key);
});

test("no text is empty or markup", () => {
  for (const [key, text] of [...Object.entries(en), ...Object.entries(zh)]) assert.ok(text.trim() && !/<\/?[a-z]/.test(text), key);
});

test("every key is used, by itself or through its group", () => {
  const folder = new URL("../../frontend/", import.meta.url);
  const sources = ["", "views/"].flatMap((place) => readdirSync(new URL(place, folder)).filter((name) => name.endsWith(".js"))
    .map((name) => readFileSync(new URL(place + name, folder), "utf8"))).join("\n");
  const unused = Object.keys(en).filter((key) => {
    const [group] = key.split(".");
    return !sources.includes(`"${key}"`) && !sources.includes(`\`${group}.\${`) && !sources.includes(`tName("${group}"`);
  });
  assert.deepEqual(unused, []);
});

test("what the server may answer has words in Chinese", () => {
  const reference = readFileSync(new URL("../../docs/reference/errors.md", import.meta.url), "utf8");
  const [, answers] = reference.split("## Codes of answers"), [table] = answers.split("## Codes of failed tasks");
  const codes = [...table.matchAll(/^\| `(\w+)` \| \d/gm)].map(([, code]) => code);
  assert.ok(codes.length > 30);
  assert.deepEqual(Object.keys(server).filter((name) => !name.includes(":")).sort(), codes.sort());
});
