import assert from "node:assert/strict";
import {test} from "node:test";
import {asCli, asCurl, quoted} from "../../frontend/commands.js";
import {DraftError, EMPTY, formField, fromTask, isBegun, restored, toRequest} from "../../frontend/draft.js";
import {members} from "../../frontend/rawjson.js";

const draft = {...EMPTY, model: "llama3.2", messages: [{role: "user", content: "Hi"}, {role: "assistant", content: "Hello"}, {role: "user", content: "Why?"}]};

test("an empty field is left out of the request", () => {
  assert.deepEqual(JSON.parse(toRequest(draft)), {type: "chat", model: "llama3.2", payload: {messages: draft.messages}, priority: 5});
});

test("every field of the form is in the request, numbers as they were written", () => {
  const text = toRequest({...draft, system: "Be brief", options: '{"seed": 9007199254740993}', format: "schema", schema: '{"type": "object"}', think: "high", delay: "5m",
    maxRetries: "0", timeout: "1.50", tags: "a, b ,"});
  assert.match(text, /9007199254740993/);
  assert.match(text, /"timeout": 1\.50/);
  const request = JSON.parse(text);
  assert.deepEqual([request.payload.system, request.payload.format, request.payload.think, request.delay, request.max_retries, request.tags],
    ["Be brief", {type: "object"}, "high", "5m", 0, ["a", "b"]]);
});

test("options that are no JSON object are refused at their field", () => {
  for (const options of ["{bad", "[1]", "7"]) assert.throws(() => toRequest({...draft, options}), (error) => error instanceof DraftError && error.field === "options");
});

test("a clone submits the same task, with the parts that the form does not know", () => {
  const task = '{"id":"x","status":"failed","type":"chat","model":"m","priority":7,"payload":{"messages":[{"role":"user","content":"Hi"}],"tools":[{"n":12345678901234567890}]},' +
    '"options":{"seed":9007199254740993},"tags":["a","b"],"max_retries":2,"timeout":5.0}';
  const request = toRequest(fromTask(members(task)));
  assert.match(request, /12345678901234567890/);
  assert.match(request, /9007199254740993/);
  assert.deepEqual(JSON.parse(request).payload.messages, [{role: "user", content: "Hi"}]);
  assert.deepEqual([JSON.parse(request).priority, JSON.parse(request).max_retries, JSON.parse(request).tags], [7, 2, ["a", "b"]]);
});

test("a clone keeps messages that the form cannot show", () => {
  const messages = [{role: "user", content: "What is it?", images: ["aGk="]}];
  const task = JSON.stringify({type: "chat", model: "m", priority: 5, payload: {messages}, max_retries: 3});
  assert.deepEqual(JSON.parse(toRequest(fromTask(members(task)))).payload, {messages});
});

test("the server's field names lead to the form's fields", () => {
  const fields = ["model", "payload.messages[1].content", "payload.prompt", "tags[0]", "run_at", "options.x", null];
  assert.deepEqual(fields.map(formField), ["model", "messages", "prompt", "tags", "delay", "options", ""]);
});

test("a shell reads a quoted word back as it was", () => {
  assert.equal(quoted("it's $HOME `x` \"y\""), `'it'\\''s $HOME \`x\` "y"'`);
  assert.equal(quoted("llama3.2"), "llama3.2");
});

test("the commands hold the request", () => {
  const json = toRequest({...draft, options: '{"temperature": 0.2}', tags: "a", system: "Be brief", format: "json"});
  assert.equal(asCurl(json, "http://h:1"), `curl -sS http://h:1/api/tasks -H 'Content-Type: application/json' -d '${json}'`);
  assert.equal(asCli(json, "http://h:1"),
    "oq --server http://h:1 submit chat -m llama3.2 --option temperature=0.2 --tag a --system 'Be brief' --messages user:Hi --messages assistant:Hello --messages 'user:Why?' --format json");
});

test("a draft that was begun is kept and comes back as it was", () => {
  assert.equal(isBegun(EMPTY), false);
  assert.equal(isBegun({...EMPTY, type: "embed", model: "llama3.2", priority: "10"}), false);
  const begun = {...EMPTY, messages: [{role: "user", content: "Why"}]};
  assert.equal(isBegun(begun), true);
  assert.deepEqual(restored(JSON.stringify(begun)), begun);
});

test("what was kept by another version is no draft", () => {
  for (const text of [null, "", "null", "[]", '{"type": "chat"}', JSON.stringify({...EMPTY, messages: [1]}), JSON.stringify({...EMPTY, messages: {}})]) {
    assert.deepEqual(restored(text), EMPTY);
  }
});
