// What live pages share: the word on the connection, bars, and what screen readers hear of them.

import { watch } from "./live.js";
import { timingsOf } from "./timings.js";

const WORDS = { live: "Live", reconnecting: "Reconnecting", polling: "Polling" };

// Watch what the page names, if it names something. hears: see live.js.
export function connect(hears) {
  const place = document.querySelector("[data-socket]");
  if (!place) return null;
  const onStatus = (status) => {
    place.textContent = WORDS[status] ?? "";
    place.dataset.status = status;
    hears.onStatus?.(status);
  };
  return watch(place.dataset.socket, { address: place.dataset.address, timings: timingsOf(place), ...hears, onStatus });
}

// Show how far something has come. total: null or 0 while nobody knows.
export function draw(bar, done, total) {
  if (total) {
    bar.max = total;
    bar.value = done ?? 0;
  } else {
    bar.removeAttribute("value");
  }
}

// Tells screen readers of each new state and of each tenth, and of nothing that the page began with.
export class Speaker {
  #place = document.querySelector("[data-spoken]");
  #said = null;

  say(state, done, total) {
    const tenths = total ? Math.floor((10 * done) / total) : 0;
    const text = tenths ? `${state}, ${10 * tenths} percent` : state;
    if (this.#place && this.#said !== null && this.#said !== text) this.#place.textContent = text;
    this.#said = text;
  }
}
