// Keys of a single character. They can be switched off, and never act while somebody types.

import { prefer, preference } from "./preferences.js";

/** @type {Map<string, () => void>} */
const actions = new Map();

/**
 * Gives a key an action.
 *
 * @param {string} key as `KeyboardEvent.key`
 * @param {() => void} action
 */
export function onKey(key, action) {
  actions.set(key, action);
}

/** Begins to listen. */
export function watchKeys() {
  const dialog = /** @type {HTMLDialogElement | null} */ (document.getElementById("keys"));
  if (!dialog) return;
  const on = /** @type {HTMLInputElement} */ (document.getElementById("keys-on"));
  on.checked = preference("keys", "on") === "on";
  on.addEventListener("change", () => prefer("keys", on.checked ? "on" : "off"));
  document.getElementById("show-keys")?.addEventListener("click", () => dialog.showModal());
  onKey("?", () => dialog.showModal());
  onKey("[", () => follow("prev"));
  onKey("]", () => follow("next"));
  addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const types = target.closest?.("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio])");
    const action = actions.get(event.key);
    if (!action || types || event.ctrlKey || event.metaKey || event.altKey || preference("keys", "on") !== "on") return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    action();
  });
}

/** @param {string} rel */
function follow(rel) {
  /** @type {HTMLAnchorElement | null} */ (document.querySelector(`.pager a[rel=${rel}], a[data-rel=${rel}]`))?.click();
}
