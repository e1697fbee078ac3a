import assert from "node:assert/strict";
import {test} from "node:test";
import {Connection, SILENCE_MS} from "../../frontend/socket.js";

/** A clock and sockets that do what the test says. */
class World {
  time = 0;
  timers = [];
  sockets = [];
  open = (url) => {
    const socket = {url, sent: [], readyState: 1, closed: false, send: (text) => socket.sent.push(JSON.parse(text)), close: () => (socket.closed = true)};
    this.sockets.push(socket);
    return socket;
  };
  now = () => this.time;
  random = () => 0.5;
  later = (run, ms) => {
    const timer = {run, at: this.time + ms};
    this.timers.push(timer);
    return timer;
  };
  never = (timer) => (this.timers = this.timers.filter((one) => one !== timer));
  pass(ms) {
    const end = this.time + ms;
    for (let next; (next = this.timers.filter(({at}) => at <= end).sort((a, b) => a.at - b.at)[0]);) {
      this.never(next);
      this.time = next.at;
      next.run();
    }
    this.time = end;
  }
  say(message) {
    this.sockets.at(-1).onmessage({data: JSON.stringify(message)});
  }
}

function connected() {
  const world = new World(), heard = [], links = [];
  const connection = new Connection(() => "ws://x/ws", (message) => heard.push(message.type), (link) => links.push(link.status), world);
  connection.open();
  world.say({type: "hello"});
  return {world, heard, links, connection};
}

test("a closed connection is told at once and opened again", () => {
  const {world, connection} = connected();
  world.sockets[0].onclose();
  assert.equal(connection.link.status, "lost");
  world.pass(700);
  assert.equal(world.sockets.length, 2);
  world.say({type: "hello"});
  assert.equal(connection.link.status, "live");
});

test("silence counts as a lost connection", () => {
  const {world, connection} = connected();
  world.pass(SILENCE_MS - 1);
  assert.equal(connection.link.status, "live");
  world.pass(2);
  assert.equal(connection.link.status, "lost");
  assert.ok(world.sockets[0].closed);
});

test("any frame keeps it alive and says when it came", () => {
  const {world, connection} = connected();
  for (let i = 0; i < 5; i++) {
    world.pass(5000);
    world.say({type: "ping"});
  }
  assert.deepEqual([connection.link.status, connection.link.at], ["live", 25_000]);
});

test("attempts come slower and slower, at most ten seconds apart and some", () => {
  const {world} = connected(), pauses = [];
  for (let i = 0; i < 9; i++) {
    const before = world.time, opened = world.sockets.length;
    world.sockets.at(-1).onclose();
    while (world.sockets.length === opened) world.pass(50);
    pauses.push(world.time - before);
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 10_000]);
});

test("an attempt that nobody answers is given up", () => {
  const {world, connection} = connected();
  world.sockets[0].onclose();
  world.pass(600);
  world.pass(8_001);
  assert.ok(world.sockets[1].closed);
  assert.equal(connection.link.status, "lost");
});

test("what is on the screen is said once, and again after a reconnect", () => {
  const {world, connection} = connected();
  connection.watch(["a"], null);
  connection.watch(["a"], null);
  assert.equal(world.sockets[0].sent.length, 1);
  world.sockets[0].onclose();
  world.pass(600);
  world.say({type: "hello"});
  assert.deepEqual(world.sockets[1].sent, [{type: "watch", ids: ["a"], task: null}]);
});

test("what is new on the screen says which event its list contains, and a reconnect does not", () => {
  const {world, connection} = connected();
  connection.watch(["a"], null, 17);
  connection.watch(["a"], null, 18);
  assert.deepEqual(world.sockets[0].sent, [{type: "watch", ids: ["a"], task: null, since: 17}]);
  world.sockets[0].onclose();
  world.pass(600);
  world.say({type: "hello"});
  assert.deepEqual(world.sockets[1].sent, [{type: "watch", ids: ["a"], task: null}]);
});

test("the server's own word for its end is kept", () => {
  const {world, connection, heard} = connected();
  world.say({type: "bye", reason: "the server is stopping"});
  world.sockets[0].onclose();
  assert.equal(connection.link.reason, "the server is stopping");
  assert.deepEqual(heard, ["hello"]);
});
