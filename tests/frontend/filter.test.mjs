import assert from "node:assert/strict";
import {test} from "node:test";
import fc from "fast-check";
import {conditions, formatFilter, formatRoute, parseFilter, parseRoute, queryString, SORTS, STATUSES} from "../../frontend/filter.js";

test("words and names are told apart, in any order", () => {
  assert.deepEqual(parseFilter('why model:llama3.2:3b is tag:"two words" PRIORITY:high,low blue'),
    {text: "why is blue", model: ["llama3.2:3b"], host: [], type: [], priority: ["high", "low"], tag: ["two words"]});
});

test("an unknown name is text, and so is a name without a value", () => {
  assert.equal(parseFilter("https://x.y modal:z").text, "https://x.y modal:z");
  assert.deepEqual(parseFilter("model: x").model, []);
});

test("a filter that was formatted is read back the same", () => {
  const word = fc.stringMatching(/^[\p{L}\d._:/<>&-]{1,12}( [\p{L}\d]{1,6})?$/u).filter((text) => !text.includes(","));
  const some = fc.array(word, {maxLength: 3});
  fc.assert(fc.property(word, some, some, some, some, some, (text, model, host, type, priority, tag) => {
    const filter = {text, model, host, type, priority, tag};
    assert.deepEqual(parseFilter(formatFilter(filter)), filter);
  }));
});

test("nothing typed breaks the filter", () => {
  fc.assert(fc.property(fc.string({unit: "binary"}), (text) => {
    assert.equal(typeof parseFilter(text).text, "string");
    assert.doesNotThrow(() => queryString(conditions(text, null)));
  }));
});

test("the address keeps the whole view", () => {
  fc.assert(fc.property(fc.constantFrom(null, ...STATUSES), fc.string(), fc.constantFrom(...SORTS), fc.option(fc.string({minLength: 1})), (status, filter, sort, id) => {
    const route = {page: "tasks", id, status, filter, sort};
    assert.deepEqual(parseRoute(formatRoute(route)), route);
  }));
});

test("a strange address shows the list", () => {
  for (const hash of ["", "#", "#/nowhere", "#/?status=odd&sort=odd", "#//", "#/t/"]) {
    assert.deepEqual(parseRoute(hash), {page: "tasks", id: null, status: null, filter: "", sort: "-created"});
  }
  assert.equal(parseRoute("#/t/%E0%A4%A").id, "%E0%A4%A");
});

test("the query string repeats what has several values", () => {
  assert.equal(queryString(conditions("model:a model:b sky", "failed"), {limit: 5, anchor: null}), "status=failed&model=a&model=b&q=sky&limit=5");
});
