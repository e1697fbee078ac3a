/**
 * The WebSocket: opens, watches, notices silence, opens again. It knows nothing of tasks.
 *
 * The server says something at least every 5 s (`ping`) and as a rule every second (`stat`).
 */
import {socketAccess} from "./api.js";
/** @import {Message} from "./types.js" */

export const SILENCE_MS = 12_000; // two pings and a bit: the connection is taken for dead
const FIRST_MS = 500, LONGEST_MS = 10_000; // pauses before another attempt
const CONNECT_MS = 8_000; // an attempt that is not answered

/** @typedef {{status: "connecting" | "live" | "lost", at: number | null, retryAt: number | null, reason: string | null}} Link
 *  `at` is when the last frame came, `retryAt` when the next attempt begins; both as `now()` tells it. */

/**
 * @typedef {object} World what the tests put in the browser's place
 * @property {(url: string) => WebSocket} open
 * @property {() => number} now milliseconds
 * @property {(run: () => void, ms: number) => any} later
 * @property {(timer: any) => void} never
 * @property {() => number} random from 0 to 1
 */

/** @type {World} */
const BROWSER = {
  open: (place) => {
    const {url, protocols} = socketAccess(place);
    return new WebSocket(url, protocols);
  },
  now: () => Date.now(), random: Math.random,
  later: (run, ms) => setTimeout(run, ms), never: (timer) => clearTimeout(timer),
};

export class Connection {
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {any} */ #timer = null;
  #attempts = 0;
  /** @type {string | null} */ #watched = null;
  /** @type {Link} */ link = {status: "connecting", at: null, retryAt: null, reason: null};

  /** @param {() => string} url @param {(message: Message) => void} onMessage @param {(link: Link) => void} onLink
   *  @param {World} world */
  constructor(url, onMessage, onLink, world = BROWSER) {
    this.url = url;
    this.onMessage = onMessage;
    this.onLink = onLink;
    this.world = world;
  }

  /** Begin an attempt now, also when one is due later. */
  open() {
    this.#drop();
    this.#tell({status: this.link.at === null && this.#attempts === 0 ? "connecting" : this.link.status, retryAt: null});
    const socket = this.world.open(this.url());
    this.#socket = socket;
    this.#alarm(CONNECT_MS);
    socket.onmessage = (event) => this.#heard(socket, event.data);
    socket.onclose = () => this.#lost(socket);
  }

  /** Say which rows and which task are on the screen. *since* is the event that the list of these rows contains: what came after it
   *  is told. @param {string[]} ids @param {string | null} task @param {number | null} since */
  watch(ids, task, since = null) {
    const text = JSON.stringify({type: "watch", ids, task});
    if (text === this.#watched) return;
    this.#watched = text;
    if (this.#socket?.readyState === 1) this.#socket.send(since === null ? text : JSON.stringify({type: "watch", ids, task, since}));
  }

  close() {
    this.#drop();
  }

  /** @param {WebSocket} socket @param {string} data */
  #heard(socket, data) {
    if (socket !== this.#socket) return;
    const message = JSON.parse(data);
    if (message.type === "bye") {
      this.link = {...this.link, reason: String(message.reason)};
      return;
    }
    if (message.type === "hello") {
      this.#attempts = 0;
      if (this.#watched) socket.send(this.#watched);
    }
    this.#alarm(SILENCE_MS);
    this.onMessage(message);
    this.#tell({status: "live", at: this.world.now(), retryAt: null, reason: null});
  }

  /** @param {WebSocket} socket */
  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#drop();
    const pause = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#attempts++) * (0.75 + this.world.random() / 2);
    this.#tell({status: "lost", retryAt: this.world.now() + pause});
    this.#timer = this.world.later(() => this.open(), pause);
  }

  /** @param {number} ms */
  #alarm(ms) {
    const socket = this.#socket;
    this.world.never(this.#timer);
    this.#timer = this.world.later(() => socket && this.#lost(socket), ms);
  }

  #drop() {
    this.world.never(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  /** @param {Partial<Link>} change */
  #tell(change) {
    this.link = {...this.link, ...change};
    this.onLink(this.link);
  }
}
