// Keeps the part of a page that changes up to date, but not while nobody looks, and not under somebody's hands.

const REFRESH_MS = 2000;
// A press that ends elsewhere may never be told.
const LONGEST_PRESS_MS = 10_000;

const live = () => document.querySelector("[data-live]");
const others = "a[href], button, summary";

let pressedAt = -Infinity;
document.addEventListener("pointerdown", () => (pressedAt = performance.now()));
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (pressedAt = -Infinity));

function isInUse(part) {
  const focused = document.activeElement;
  const writes = part.contains(focused) && focused.matches("input, select, textarea");
  // What is replaced between the two halves of a click is not clicked.
  const presses = performance.now() - pressedAt < LONGEST_PRESS_MS && part.matches(":hover");
  return writes || presses || part.querySelector("details[open]") !== null;
}

// What has the focus is replaced with the part: its successor gets it, so that keys go on where they were.
function keepFocus(part) {
  const focused = document.activeElement;
  if (!part.contains(focused) || !focused.matches(others)) return () => {};
  const isLike = (other) => other.textContent === focused.textContent && other.href === focused.href;
  const place = [...part.querySelectorAll(others)].filter(isLike).indexOf(focused);
  return (next) => [...next.querySelectorAll(others)].filter(isLike)[place]?.focus({ preventScroll: true });
}

// What a part says of its age: a sequence, or null.
export function sequenceOf(part) {
  return part?.dataset.seq ? Number(part.dataset.seq) : null;
}

// judge(sequence): what becomes of a part of that age: "take", "drop", or "again" where a newer one is still needed.
// onShown(part): it is shown.
//
// Returns a function that has the part fetched: at once, but two seconds after the last time at the earliest.
export function keepFresh({ judge = () => "take", onShown = () => {} } = {}) {
  let askedAt = -Infinity;
  let timer = null;
  let refocus = () => {};

  function refresh() {
    timer ??= setTimeout(ask, Math.max(0, askedAt + REFRESH_MS - performance.now()));
  }

  function ask() {
    timer = null;
    const part = live();
    // Whoever comes back to the page is shown it anew.
    if (!part || document.hidden) return;
    askedAt = performance.now();
    // htmx would drop what is asked for while an answer is on its way that replaces the part.
    if (isInUse(part) || part.classList.contains("htmx-request")) refresh();
    else window.htmx?.trigger(part, "seen");
  }

  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target.closest("[data-live]");
    if (part && (document.hidden || isInUse(part))) event.preventDefault();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { pathInfo, xhr, serverResponse } = event.detail;
    const asked = new URL(pathInfo.requestPath, location.href).pathname;
    // The answer may be another page: somebody has signed out meanwhile. It is then shown whole.
    if (xhr.responseURL && new URL(xhr.responseURL).pathname !== asked) {
      event.preventDefault();
      location.reload();
      return;
    }
    const part = event.target.closest("[data-live]");
    if (!part) return;
    const next = new DOMParser().parseFromString(serverResponse, "text/html").querySelector("[data-seq]");
    const sequence = sequenceOf(next);
    const verdict = isInUse(part) ? "again" : sequence === null ? "take" : judge(sequence);
    if (verdict !== "take") event.preventDefault();
    if (verdict === "again") refresh();
    refocus = keepFocus(part);
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    const part = event.target.closest?.("[data-seq], [data-live]");
    if (!part) return;
    refocus(part);
    refocus = () => {};
    onShown(part);
  });

  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  addEventListener("pageshow", (event) => event.persisted && refresh());
  return refresh;
}
