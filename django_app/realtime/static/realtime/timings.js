// How long things take, in seconds. A page may give any of them: data-ping-seconds="30".
export const TIMINGS = Object.freeze({
  // For an address, and again for a socket until its first message: longer than a cold start on Lambda.
  openSeconds: 20,
  // API Gateway closes a socket on which nothing came for ten minutes.
  pingSeconds: 240,
  // How long an answer may take before the socket counts as broken.
  pongSeconds: 15,
  // API Gateway closes each socket after two hours. A new one is opened before, not by all at once.
  recycleSeconds: 105 * 60,
  recycleJitterSeconds: 10 * 60,
  // The wait before an attempt is drawn from 0 to retrySeconds, doubled with each failure up to retryMostSeconds.
  retrySeconds: 1,
  retryMostSeconds: 30,
  // So long a socket must hold before failures are forgotten.
  stableSeconds: 10,
  // Where the site says that it has no sockets, until it is asked again.
  unavailableSeconds: 300,
  // So long the page waits for a socket before it polls, and then between two polls.
  pollAfterSeconds: 3,
  pollSeconds: 5,
  // So long a page may be hidden before it gives its socket up.
  hiddenSeconds: 30,
});

// The timings that hold for an element.
export function timingsOf(element) {
  const given = Object.keys(TIMINGS).filter((name) => element.dataset[name]);
  return { ...TIMINGS, ...Object.fromEntries(given.map((name) => [name, Number(element.dataset[name])])) };
}

// Full jitter: those whose sockets broke at the same moment do not come back at the same moment.
export function retryAfter(failures, timings) {
  return Math.random() * Math.min(timings.retryMostSeconds, timings.retrySeconds * 2 ** failures);
}
