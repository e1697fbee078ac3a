import assert from "node:assert/strict";
import {test} from "node:test";
import fc from "fast-check";
import {indented, members, object} from "../../frontend/rawjson.js";

test("numbers keep their digits", () => {
  const text = '{"a":12345678901234567890,"b":1.0,"c":[9007199254740993,1e400]}';
  assert.equal(members(text).get("a"), "12345678901234567890");
  assert.match(indented(text), /12345678901234567890/);
  assert.match(indented(text), /"b": 1\.0/);
  assert.match(indented(text), /\[9007199254740993,1e400\]/);
});

test("indented JSON means the same", () => {
  fc.assert(fc.property(fc.json(), (text) => assert.deepEqual(JSON.parse(indented(text)), JSON.parse(text))));
});

test("indenting twice changes nothing", () => {
  fc.assert(fc.property(fc.json(), (text) => assert.equal(indented(indented(text)), indented(text))));
});

test("the members of any object are found with their text", () => {
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
    const found = members(JSON.stringify(value));
    assert.deepEqual([...found.keys()].sort(), Object.keys(JSON.parse(JSON.stringify(value))).sort());
    for (const [name, text] of found) assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value[name])));
    assert.deepEqual(JSON.parse(object(Object.fromEntries(found))), JSON.parse(JSON.stringify(value)));
  }));
});
