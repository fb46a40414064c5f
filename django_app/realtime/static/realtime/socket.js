// One socket, from its address to its end.

const isMessage = (told) => typeof told === "object" && told !== null && typeof told.type === "string";

// What a frame says; null for what is none of ours, such as the error frames of API Gateway, which have no type.
function read(data) {
  try {
    const told = JSON.parse(data);
    return isMessage(told) ? told : null;
  } catch {
    return null;
  }
}

// A socket is live from the answer to its first "sync" on: that it is open says only that somebody has accepted it.
//
// hears: onLive(), onMessage(message), and onEnd() once, unless it was closed from here.
// Throws what WebSocket throws for an address that it does not like.
export class Socket {
  #web;
  #timings;
  #hears;
  #deadline = null;
  #pinging = null;
  #heardAt = 0;
  #isLive = false;

  constructor(url, timings, hears) {
    this.#timings = timings;
    this.#hears = hears;
    this.#web = new WebSocket(url);
    this.#web.onopen = () => {
      this.#say("sync");
      this.#within(timings.openSeconds);
    };
    this.#web.onmessage = (event) => this.#hear(read(event.data));
    this.#web.onclose = () => this.#end();
    this.#within(timings.openSeconds);
  }

  // Ask for the state. Whoever does not answer is gone, though nobody has said so.
  sync() {
    this.#ask("sync");
  }

  // As sync(), unless it has said something just now.
  doubt() {
    if (performance.now() - this.#heardAt > 1000 * this.#timings.pongSeconds) this.sync();
  }

  close() {
    this.#letGo();
    this.#web.close(1000);
  }

  #hear(message) {
    if (message === null) return;
    if (!this.#isLive) {
      // The state could not be read: a later attempt may be luckier.
      if (message.type === "error") this.#end();
      if (message.type === "bye") this.#hears.onMessage(message);
      if (message.type !== "state" && message.type !== "changed") return;
      this.#isLive = true;
      this.#pinging = setInterval(() => this.#ask("ping"), 1000 * this.#timings.pingSeconds);
      this.#hears.onLive();
    }
    this.#heardAt = performance.now();
    this.#within(null);
    this.#hears.onMessage(message);
  }

  #ask(type) {
    if (!this.#isLive) return;
    this.#say(type);
    if (this.#deadline === null) this.#within(this.#timings.pongSeconds);
  }

  #say(type) {
    if (this.#web.readyState === WebSocket.OPEN) this.#web.send(JSON.stringify({ type }));
  }

  #within(seconds) {
    clearTimeout(this.#deadline);
    this.#deadline = seconds === null ? null : setTimeout(() => this.#end(), 1000 * seconds);
  }

  // Does not wait for the other side's consent: where there is none it would take minutes.
  #end() {
    this.close();
    this.#hears.onEnd();
  }

  #letGo() {
    this.#within(null);
    clearInterval(this.#pinging);
    this.#web.onopen = this.#web.onmessage = this.#web.onclose = null;
  }
}
