// What every page does.

import { watchKeys } from "./keys.js";
import { watchSession } from "./session.js";
import { watchZone } from "./times.js";

watchZone();
watchKeys();
watchSession();

// The place within a page is not sent to the server, so the form takes it along.
const next = /** @type {HTMLInputElement | null} */ (document.querySelector("#sign-in input[name=next]"));
if (next) {
  sessionStorage.clear(); // whose results these were may be another person
  if (location.hash) next.value = next.value.replace(/#.*$/, "") + location.hash;
}

// A page that could not be made is asked for again when the service is ready.
const failed = document.querySelector("[data-retry]");
const note = document.querySelector("[data-retry-note]");
if (failed && note) {
  note.textContent = "Trying again …";
  let wait = 2000;
  const retry = async () => {
    const response = await fetch("/health/ready").catch(() => null);
    if (response?.ok) location.reload();
    else {
      wait = Math.min(wait * 1.5, 15_000);
      setTimeout(retry, wait);
    }
  };
  setTimeout(retry, wait);
}
