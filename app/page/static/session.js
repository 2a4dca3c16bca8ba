// How long the session still lasts. The server decides; the page warns two minutes before, and leads to the sign-in after.

const WARN_SECONDS = 120;
// So seldom does typing and clicking tell the server that somebody is there.
const TELL_SECONDS = 120;
// A browser's timer knows no longer times.
const MOST_SECONDS = 2 ** 31 / 1000 - 1;

/** When the session ends if nothing more happens, by this page's clock in ms. Another tab may have prolonged it. */
let deadline = Infinity;
let lastTold = Date.now();
/** @type {number | undefined} */
let timer;

/** Begins to watch the session of this page, if it has one. */
export function watchSession() {
  const left = Number(document.body.dataset.secondsLeft);
  if (!left) return;
  schedule(left);
  for (const event of ["keydown", "pointerdown"]) {
    addEventListener(event, () => Date.now() - lastTold > TELL_SECONDS * 1000 && void keepAlive(), { passive: true });
  }
  addEventListener("visibilitychange", () => document.visibilityState === "visible" && void look());
  dialog().addEventListener("cancel", () => void stay());
  byId("expiry-stay").addEventListener("click", () => void stay());
}

/** Tells that a request has just prolonged the session. */
export function noteActivity() {
  lastTold = Date.now();
}

/** Prolongs the session; who plays or types is active without any other request. */
export async function keepAlive() {
  lastTold = Date.now();
  const response = await fetch("/ui/api/me").catch(() => null);
  if (response?.status === 401) signInAgain();
  else if (response) await look();
}

/** Leads to the sign-in, which leads back to this very place. */
export function signInAgain() {
  const here = location.pathname + location.search + location.hash;
  location.assign(`/ui/sign-in?next=${encodeURIComponent(here)}`);
}

/** @param {number} secondsLeft */
function schedule(secondsLeft) {
  deadline = Date.now() + secondsLeft * 1000;
  clearTimeout(timer);
  timer = setTimeout(() => void look(), Math.min(Math.max(secondsLeft - WARN_SECONDS, 0.5), MOST_SECONDS) * 1000);
}

/** Asks the server, and warns if it is time. */
async function look() {
  const response = await fetch("/ui/session").catch(() => null);
  if (!response?.ok) {
    schedule(Math.max((deadline - Date.now()) / 1000, WARN_SECONDS + 5)); // not to be reached; ask again soon
    return;
  }
  const { session } = await response.json();
  if (!session) signInAgain();
  else if (session.secondsLeft > WARN_SECONDS + 1) {
    schedule(session.secondsLeft);
    if (dialog().open) dialog().close();
  } else warn(session.secondsLeft);
}

/** @param {number} secondsLeft */
function warn(secondsLeft) {
  deadline = Date.now() + secondsLeft * 1000;
  if (!dialog().open) dialog().showModal();
  clearTimeout(timer);
  count();
}

function count() {
  if (!dialog().open) return;
  const seconds = Math.ceil((deadline - Date.now()) / 1000);
  byId("expiry-left").textContent = `${Math.floor(Math.max(seconds, 0) / 60)}:${String(Math.max(seconds, 0) % 60).padStart(2, "0")}`;
  // The last look is the server's: another tab may have prolonged the session.
  timer = setTimeout(() => (seconds <= 0 ? void look() : count()), 1000);
}

async function stay() {
  await keepAlive();
  if (dialog().open) {
    const problem = byId("expiry-problem");
    problem.hidden = false;
    problem.textContent = "The session cannot be prolonged any more. Finish what you are doing, and sign in again.";
  }
}

/** @returns {HTMLDialogElement} */
function dialog() {
  return /** @type {HTMLDialogElement} */ (byId("expiry"));
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
