// Watches one thing by a socket that is opened anew whenever it breaks, and says when to poll instead.

import { askAddress } from "./address.js";
import { Socket } from "./socket.js";
import { retryAfter } from "./timings.js";

const RELOADED = "cloudqueue-reloaded-at";
const RELOAD_AGAIN_MS = 60_000;

// The page's address leads whoever has signed out to the sign-in page. Once a minute: should it not, it must not spin.
function reload() {
  try {
    if (Date.now() - Number(sessionStorage.getItem(RELOADED)) < RELOAD_AGAIN_MS) return;
    sessionStorage.setItem(RELOADED, String(Date.now()));
  } catch {
    // No storage, no memory.
  }
  location.reload();
}

// What is watched: a path such as /ws/runs/7/.
//
// address: where addresses of sockets are asked for. seen: the sequence of what the page shows already.
// onState(message): a whole state, newer than all before. onChanged(message): something has changed, look for yourself.
// onStatus(status): connecting, live, reconnecting, polling, paused (nobody looks), ended (nothing more will come).
// poll(): called every few seconds while there is no socket; tell saw() what came of it.
export class Watcher {
  #path;
  #options;
  #timings;
  #seen;
  #pulse = null;
  #live = null;
  #attempt = null;
  #failures = 0;
  #timers = new Map();
  #status = "";
  #isAway = false;
  #isOver = false;

  constructor(path, options) {
    this.#path = path;
    this.#options = options;
    this.#timings = options.timings;
    this.#seen = options.seen ?? -1;
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", (event) => event.persisted && this.#return());
    addEventListener("online", () => this.#hurry());
    addEventListener("offline", () => this.#live?.sync());
    this.#fallBack("connecting");
    if (document.hidden) this.#look();
    this.#open();
  }

  // What came by other ways: "newer", "same" or "older" than what is shown. Older must not be shown.
  saw(sequence) {
    if (sequence < this.#seen) return "older";
    if (sequence === this.#seen) return "same";
    this.#seen = sequence;
    this.#live?.doubt();
    return "newer";
  }

  stop() {
    this.#isOver = true;
    this.#letGo();
    this.#tell("ended");
  }

  // Opening ---------------------------------------------------------------------------------------------------------

  async #open() {
    if (this.#isOver || this.#isAway || this.#attempt) return;
    this.#forget("retry");
    const attempt = (this.#attempt = { giveUp: new AbortController(), socket: null });
    this.#after("address", this.#timings.openSeconds, () => attempt.giveUp.abort());
    let refusal = null;
    try {
      const url = await askAddress(this.#path, this.#options.address, attempt.giveUp.signal);
      if (this.#attempt !== attempt) return;
      attempt.socket = new Socket(url, this.#timings, {
        onLive: () => this.#settle(attempt),
        onMessage: (message) => this.#take(message),
        onEnd: () => this.#lose(attempt),
      });
    } catch (error) {
      refusal = error;
    }
    if (this.#attempt !== attempt) return;
    this.#forget("address");
    if (refusal) this.#refused(refusal);
  }

  #refused({ status = 0, retrySeconds = 0 }) {
    this.#attempt = null;
    if (status === 401) {
      this.stop();
      reload();
    } else if (status === 404) {
      this.stop();
    } else if (status === 503 && !retrySeconds) {
      // It has none. One that is only away for a while says when to come back.
      if (!this.#live) this.#poll();
      this.#retry(this.#timings.unavailableSeconds);
    } else {
      this.#retry(retrySeconds);
    }
  }

  #settle(attempt) {
    // Where it takes the place of one that grows old, that one is closed now, and nothing is missed.
    this.#live?.close();
    this.#live = attempt.socket;
    this.#attempt = null;
    this.#forget("poll", "retry");
    this.#tell("live");
    this.#after("stable", this.#timings.stableSeconds, () => (this.#failures = 0));
    const { recycleSeconds, recycleJitterSeconds } = this.#timings;
    this.#after("recycle", recycleSeconds + Math.random() * recycleJitterSeconds, () => this.#open());
  }

  #lose(attempt) {
    if (attempt === this.#attempt) {
      this.#attempt = null;
      this.#retry();
    } else if (attempt.socket === this.#live) {
      this.#live = null;
      this.#forget("stable", "recycle");
      this.#fallBack("reconnecting");
      if (!this.#attempt) this.#retry();
    }
  }

  #retry(atLeastSeconds = 0) {
    this.#failures += 1;
    this.#after("retry", Math.max(atLeastSeconds, retryAfter(this.#failures, this.#timings)), () => this.#open());
  }

  // Without a socket ------------------------------------------------------------------------------------------------

  #fallBack(status) {
    this.#tell(status);
    this.#after("poll", this.#timings.pollAfterSeconds, () => this.#poll());
  }

  #poll() {
    this.#tell("polling");
    this.#after("poll", this.#timings.pollSeconds, () => this.#poll());
    this.#options.poll?.();
  }

  // Messages --------------------------------------------------------------------------------------------------------

  #take(message) {
    if (message.type === "bye") {
      this.stop();
      if (message.why === "signed_out") reload();
    } else if (message.type === "state" && Number.isSafeInteger(message.seq) && message.seq > this.#seen) {
      // Pushes may overtake each other, and come twice across two sockets.
      this.#seen = message.seq;
      this.#options.onState?.(message);
      if (message.is_final) this.stop();
    } else if (message.type === "changed" && message.seq !== this.#pulse) {
      this.#pulse = message.seq;
      this.#options.onChanged?.(message);
    }
  }

  // Who looks -------------------------------------------------------------------------------------------------------

  #look() {
    if (document.hidden) {
      this.#after("hidden", this.#timings.hiddenSeconds, () => this.#leave());
    } else {
      this.#forget("hidden");
      if (this.#isAway) this.#return();
      else this.#live?.sync();
    }
  }

  #leave() {
    if (this.#isOver || this.#isAway) return;
    this.#isAway = true;
    this.#letGo();
    this.#tell("paused");
  }

  #return() {
    if (this.#isOver || !this.#isAway) return;
    this.#isAway = false;
    this.#failures = 0;
    this.#fallBack("connecting");
    this.#open();
  }

  #hurry() {
    this.#live?.sync();
    if (this.#live || this.#attempt) return;
    this.#failures = 0;
    this.#open();
  }

  // The rest --------------------------------------------------------------------------------------------------------

  #letGo() {
    this.#attempt?.giveUp.abort();
    this.#attempt?.socket?.close();
    this.#live?.close();
    this.#attempt = this.#live = null;
    this.#forget(...this.#timers.keys());
  }

  #tell(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.#options.onStatus?.(status);
  }

  #after(name, seconds, action) {
    this.#forget(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      if (!this.#isOver) action();
    }, 1000 * seconds);
    this.#timers.set(name, timer);
  }

  #forget(...names) {
    for (const name of names) {
      clearTimeout(this.#timers.get(name));
      this.#timers.delete(name);
    }
  }
}

export function watch(path, options) {
  return new Watcher(path, options);
}
