// Keeps what a page shows and what it asks for, across reloads: what a test reads as sessionStorage.kept.
(() => {
  const keep = (kind, what) => {
    const all = JSON.parse(sessionStorage.kept ?? "[]");
    sessionStorage.kept = JSON.stringify([...all, { kind, ...what }]);
  };
  let last = "";
  const look = () => {
    const part = document.querySelector("#progress, #live");
    const bar = part?.querySelector("progress[value]");
    if (!part?.querySelector(".state")) return;
    const shown = {
      state: part.querySelector(".state").textContent.trim(),
      done: bar && !bar.hidden ? bar.value : null,
      total: bar && !bar.hidden ? bar.max : null,
      parts: part.querySelectorAll("li.done").length,
    };
    if (JSON.stringify(shown) !== last) keep("shown", shown);
    last = JSON.stringify(shown);
  };
  const all = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(look).observe(document, all);

  const { open } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...others) {
    keep("fetched", { url: String(url) });
    return open.call(this, method, url, ...others);
  };
  window.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url);
      keep("socket", { url });
      window.newestSocket = this;
      this.addEventListener("message", (event) => keep("heard", JSON.parse(event.data)));
    }
  };
})();
