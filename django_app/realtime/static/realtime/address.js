// Where a socket is: an address of its own for each, which holds for a minute and for one use.

// status: of the answer; 0 if there was none. retrySeconds: until the site wants to be asked again, if it says so.
export class AddressError extends Error {
  constructor(status, retrySeconds) {
    super(`the site gave no address: ${status || "no answer"}`);
    this.name = "AddressError";
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

// The cookie's token holds even if somebody has signed in anew in another tab; the page's own does not.
function csrfToken() {
  const cookie = document.cookie.split("; ").find((each) => each.startsWith("csrftoken="));
  if (cookie) return cookie.slice("csrftoken=".length);
  return document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
}

// The address of a socket for the path. from: the site's own address for that. signal: gives up. Throws AddressError.
export async function askAddress(path, from, signal) {
  let answer;
  try {
    answer = await fetch(from, {
      method: "POST",
      body: new URLSearchParams({ path }),
      headers: { "X-CSRFToken": csrfToken(), Accept: "application/json" },
      credentials: "same-origin",
      cache: "no-store",
      redirect: "manual",
      signal,
    });
  } catch {
    throw new AddressError(0, 0);
  }
  if (!answer.ok) throw new AddressError(answer.status, Number(answer.headers.get("Retry-After")) || 0);
  const told = await answer.json().catch(() => null);
  if (typeof told?.url !== "string") throw new AddressError(0, 0);
  return told.url;
}
