// Uploads the file straight to S3 with a progress bar. Without this script the form does the same with a redirect.
const form = document.querySelector("#upload");
const bar = document.querySelector("#upload-progress progress");
const box = document.querySelector("#upload-progress");
const status = document.querySelector("#upload-status");
const cancel = document.querySelector("#upload-cancel");
const fields = JSON.parse(document.querySelector("#upload-fields").textContent);

const reasons = {
  EntityTooLarge: "The file is larger than allowed. Choose a smaller one.",
  AccessDenied: "The upload form has expired. Start a new dataset.",
};

function readable(request) {
  const code = request.responseXML?.querySelector("Code")?.textContent;
  return reasons[code] ?? `Storage refused the file (${code ?? request.status}). Reload the page and try again.`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  if (file.size > Number(form.dataset.limitBytes)) {
    status.textContent = reasons.EntityTooLarge;
    return;
  }
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("file", file);

  const request = new XMLHttpRequest();
  const ended = (text) => {
    box.hidden = true;
    form.hidden = false;
    status.textContent = text;
  };
  request.upload.addEventListener("progress", (step) => {
    if (step.lengthComputable) bar.value = (100 * step.loaded) / step.total;
  });
  request.addEventListener("load", () => {
    if (request.status >= 200 && request.status < 300) {
      status.textContent = "Uploaded.";
      window.location.assign(form.dataset.finishedUrl);
    } else {
      ended(readable(request));
    }
  });
  request.addEventListener("error", () => ended("The connection broke. Check it and try again."));
  request.addEventListener("abort", () => ended("Cancelled."));
  cancel.onclick = () => request.abort();
  form.hidden = true;
  box.hidden = false;
  status.textContent = `Uploading ${file.name}.`;
  request.open("POST", form.action);
  request.send(body);
});
