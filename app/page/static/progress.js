// The list of operations: how far those are that are running.

import { pause } from "./api.js";
import { follow } from "./operations.js";
import { showTimes } from "./times.js";

const status = /** @type {HTMLElement} */ (document.getElementById("status"));

for (const row of document.querySelectorAll("tr[data-state=running]")) void watch(/** @type {HTMLElement} */ (row));

/** @param {HTMLElement} row */
async function watch(row) {
  const progress = /** @type {HTMLProgressElement} */ (row.querySelector("progress"));
  const text = /** @type {HTMLElement} */ (row.querySelector(".done-of"));
  const over = await follow(
    `/recording-operations/${row.id}`,
    ({ matched, succeeded, failed }) => {
      progress.value = succeeded + failed;
      const done = `${(succeeded + failed).toLocaleString("en-US")} of ${matched.toLocaleString("en-US")}`;
      text.textContent = failed ? `${done}, ${failed.toLocaleString("en-US")} failed` : done;
    },
    new AbortController().signal,
  ).catch(() => null); // it is not there any more, or the sign-in is on its way
  if (over) await showEnd(row);
}

/**
 * Puts the row as the service has it now in place of one that was running.
 *
 * @param {HTMLElement} row
 */
async function showEnd(row) {
  const response = await fetch(location.href).catch(() => null);
  if (!response?.ok) {
    await pause(5000);
    return showEnd(row);
  }
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById(row.id);
  if (!fresh) return location.reload(); // newer ones have moved it to another page
  const hadFocus = row.contains(document.activeElement);
  row.replaceWith(document.adoptNode(fresh));
  showTimes(fresh);
  const told = [".c-deed strong", ".state", ".done-of"].map((part) => fresh.querySelector(part)?.textContent);
  status.textContent = told.join(", ");
  if (hadFocus) /** @type {HTMLElement} */ (document.getElementById("main")).focus();
}
