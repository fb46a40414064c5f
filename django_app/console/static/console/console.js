// Keeps the part of a page that changes up to date, but not while nobody looks, and not under somebody's hands.
const live = () => document.querySelector("[data-live]");

function isInUse(part) {
  const focused = document.activeElement;
  const writes = part.contains(focused) && focused.matches("input, select, textarea");
  return writes || part.querySelector("details[open]") !== null;
}

document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target.closest("[data-live]");
  if (part && (document.hidden || isInUse(part))) event.preventDefault();
});

// Whoever comes back to the page sees at once how things stand.
document.addEventListener("visibilitychange", () => {
  const part = live();
  if (part && !document.hidden) window.htmx?.trigger(part, "seen");
});

// The answer may be another page: somebody has signed out meanwhile. It is then shown whole.
document.addEventListener("htmx:beforeSwap", (event) => {
  const asked = new URL(event.detail.pathInfo.requestPath, location.href).pathname;
  const answered = event.detail.xhr.responseURL;
  if (answered && new URL(answered).pathname !== asked) {
    event.preventDefault();
    location.reload();
  }
});
