// Shows how the work on a dataset goes on, and the whole page anew when it has ended.

import { Speaker, connect, draw } from "./page.js";
import { keepFresh, sequenceOf } from "./parts.js";

const PARTS = { d: ["done", "Done"], r: ["running", "Running"], w: ["waiting", "Waiting"] };
const speaker = new Speaker();
const part = () => document.querySelector("#progress");
const state = () => part().querySelector(".state");
const field = (name) => part().querySelector(`[data-field=${name}]`);

function speak() {
  const bar = field("bar");
  speaker.say(state().textContent.trim(), bar?.value ?? 0, bar?.hasAttribute("value") ? bar.max : 0);
}

function show(message) {
  if (!part()) return;
  state().textContent = message.label;
  state().className = `state ${message.state}`;
  field("count").textContent = message.total ? `${message.done} of ${message.total} parts done` : "";
  if (field("bar")) draw(field("bar"), message.done, message.total);
  showParts(message.chunks);
  part().dataset.seq = message.seq;
  speak();
  // Report and buttons come with the page.
  if (message.is_final) location.reload();
}

function showParts(letters) {
  const list = field("parts");
  while (list.children.length > letters.length) list.lastElementChild.remove();
  [...letters].forEach((letter, index) => {
    const [name, word] = PARTS[letter] ?? PARTS.w;
    let item = list.children[index];
    if (item?.className === name) return;
    if (!item) {
      item = list.appendChild(document.createElement("li"));
      item.append(document.createElement("span"));
    }
    item.className = name;
    item.title = `Part ${index + 1}: ${word.toLowerCase()}`;
    item.firstElementChild.textContent = word;
  });
  list.hidden = letters.length === 0;
}

const refresh = keepFresh({
  judge: (sequence) => (watcher === null || watcher.saw(sequence) === "newer" ? "take" : "drop"),
  onShown: (shown) => shown.id === "progress" && speak(),
});
if (part()) speak();
const watcher = connect({ seen: sequenceOf(part()) ?? -1, onState: show, poll: refresh });
