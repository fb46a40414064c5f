// Pages of the console that change by themselves: a run shows itself, lists are fetched anew when they are told to.

import { Speaker, connect, draw } from "../realtime/page.js";
import { keepFresh, sequenceOf } from "../realtime/parts.js";

const speaker = new Speaker();
const part = () => document.querySelector("#live");
const state = () => part().querySelector(".state");
const field = (name) => part()?.querySelector(`[data-field=${name}]`);

function speak() {
  const bar = field("bar");
  if (bar) speaker.say(state().textContent.trim(), bar.hidden ? 0 : bar.value, bar.hidden ? 0 : bar.max);
}

function show(message) {
  if (!field("bar")) return;
  const isAnother = state().textContent !== message.state || part().dataset.attempts !== String(message.attempts);
  const [bar, count] = [field("bar"), field("count")];
  bar.hidden = !message.total;
  if (message.total) draw(bar, message.done, message.total);
  count.textContent = message.done === null ? "" : message.total ? `${message.done} of ${message.total}` : message.done;
  field("note").textContent = message.note;
  part().dataset.seq = message.seq;
  if (isAnother) {
    state().textContent = message.state;
    state().className = `state ${message.state}`;
    // Times, attempts, buttons and results come with the part.
    refresh();
  }
  speak();
}

const refresh = keepFresh({
  // What the socket has shown since says nothing of times and attempts.
  judge: (sequence) => (watcher?.saw(sequence) === "older" ? "again" : "take"),
  onShown: speak,
});
speak();
const watcher = connect({ seen: sequenceOf(part()) ?? -1, onState: show, onChanged: refresh, poll: refresh });
