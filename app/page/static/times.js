// Times of the page in the local zone or in UTC. The HTML has them in UTC, so they are right without scripts too.

import { prefer, preference } from "./preferences.js";

/** @returns {boolean} whether times are shown in UTC */
export function isUtc() {
  return preference("zone", "local") === "utc";
}

/**
 * @param {number} instant milliseconds since 1970
 * @param {boolean} [utc]
 * @returns {string} `2013-05-17 19:45:32`
 */
export function format(instant, utc = isUtc()) {
  return toIso(instant, utc).slice(0, 19).replace("T", " ");
}

/**
 * @param {number} instant
 * @param {boolean} [utc]
 * @returns {string} `2013-05-17T19:45:32.000`, as `<input type="datetime-local">` has it
 */
export function toIso(instant, utc = isUtc()) {
  const offset = utc ? 0 : new Date(instant).getTimezoneOffset();
  return new Date(instant - offset * 60_000).toISOString().slice(0, 23);
}

/**
 * @param {string} text as of `toIso`, perhaps without seconds
 * @param {boolean} [utc]
 * @returns {number} milliseconds since 1970, NaN if it is no time
 */
export function fromIso(text, utc = isUtc()) {
  return new Date(utc ? `${text}Z` : text).getTime();
}

/**
 * @param {number} instant
 * @returns {string} the name of the zone at that time: `UTC`, `UTC+01:00`
 */
export function zoneName(instant) {
  const minutes = isUtc() ? 0 : -new Date(instant).getTimezoneOffset();
  if (!minutes) return "UTC";
  const size = Math.abs(minutes);
  const hours = String(Math.floor(size / 60)).padStart(2, "0");
  return `UTC${minutes < 0 ? "−" : "+"}${hours}:${String(size % 60).padStart(2, "0")}`;
}

/**
 * Returns the name of the zone of all times in an element: summer and winter have different ones.
 *
 * @param {Element} element
 */
function zoneOf(element) {
  const times = [.../** @type {NodeListOf<HTMLTimeElement>} */ (element.querySelectorAll("time[datetime]"))];
  const names = new Set(times.map((time) => zoneName(Date.parse(time.dateTime))));
  if (names.size > 1) return "local time";
  return [...names][0] ?? zoneName(Date.now());
}

/** Shows every `<time datetime>` below `root` in the chosen zone, with the other one on hover. */
export function showTimes(root = document.body) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const instant = Date.parse(/** @type {HTMLTimeElement} */ (element).dateTime);
    element.textContent = format(instant);
    /** @type {HTMLElement} */ (element).title = isUtc()
      ? `${format(instant, false)} local time`
      : `${format(instant, true)} UTC`;
  }
  for (const element of root.querySelectorAll("[data-zone]")) {
    element.textContent = zoneOf(element.closest("table") ?? element.parentElement ?? element);
  }
}

/** Begins to show times, and follows the switch in the header. Others listen to `recall:zone`. */
export function watchZone() {
  showTimes();
  for (const input of document.querySelectorAll("#zone input")) {
    const choice = /** @type {HTMLInputElement} */ (input);
    choice.checked = choice.value === (isUtc() ? "utc" : "local");
    choice.addEventListener("change", () => {
      prefer("zone", choice.value);
      showTimes();
      dispatchEvent(new Event("recall:zone"));
    });
  }
}
