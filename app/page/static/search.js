// The search: times in the chosen zone, columns, and operations on selected rows.

import { ApiError, call } from "./api.js";
import { onKey } from "./keys.js";
import { operate } from "./operations.js";
import { prefer } from "./preferences.js";
import { fromIso, isUtc, toIso } from "./times.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("search"));
const status = /** @type {HTMLElement} */ (document.getElementById("status"));

onKey("/", () => {
  form.classList.remove("folded");
  /** @type {HTMLElement | null} */ (form.querySelector(".fields input"))?.focus();
});

// The address is the query: an empty field is no criterion.
form.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (!String(value).trim()) event.formData.delete(name);
});

/** Lets times be picked in the chosen zone; what is sent is absolute. */
function watchTimes() {
  for (const field of form.querySelectorAll("input[data-time]")) {
    const sent = /** @type {HTMLInputElement} */ (field);
    if (sent.value && !sent.dataset.time) continue; // it is no time, and its error tells why
    let instant = sent.dataset.time ? Number(sent.dataset.time) : NaN;
    const picker = document.createElement("input");
    picker.type = "datetime-local";
    picker.step = "1";
    picker.id = sent.id;
    sent.removeAttribute("id");
    const about = sent.getAttribute("aria-describedby");
    if (about) picker.setAttribute("aria-describedby", about);
    const show = () => {
      // 1970 stands for "all", and looks like it.
      picker.value = instant ? toIso(instant).slice(0, 19) : "";
    };
    picker.addEventListener("change", () => {
      instant = fromIso(picker.value);
      sent.value = Number.isNaN(instant) ? "" : new Date(instant).toISOString().replace(".000Z", "Z");
    });
    addEventListener("recall:zone", show);
    show();
    sent.type = "hidden";
    sent.before(picker);
  }
}

/** On a narrow screen the criteria are folded away while there are results. */
function watchFolding() {
  const button = /** @type {HTMLElement} */ (document.getElementById("fold"));
  const fold = (/** @type {boolean} */ folded) => {
    form.classList.toggle("folded", folded);
    button.setAttribute("aria-expanded", String(!folded));
  };
  button.addEventListener("click", () => fold(!form.classList.contains("folded")));
  fold(document.getElementById("recordings") !== null);
}

/** Days begin at midnight of the chosen zone. */
function watchPresets() {
  const show = () => {
    const now = new Date();
    const midnight = isUtc() ? new Date(now).setUTCHours(0, 0, 0, 0) : new Date(now).setHours(0, 0, 0, 0);
    const before = new Date(midnight);
    if (isUtc()) before.setUTCDate(before.getUTCDate() - 1);
    else before.setDate(before.getDate() - 1);
    const shown = new URLSearchParams(location.search);
    for (const link of document.querySelectorAll("a[data-preset]")) {
      const preset = /** @type {HTMLAnchorElement} */ (link);
      const name = preset.dataset.preset;
      if (name !== "today" && name !== "yesterday") continue;
      const address = new URL(preset.href);
      const start = iso(name === "today" ? midnight : before.getTime());
      address.searchParams.set("startTime", start);
      if (name === "yesterday") address.searchParams.set("endTime", iso(midnight));
      preset.href = address.pathname + address.search;
      const isCurrent =
        shown.get("startTime") === start && (shown.get("endTime") ?? "") === (name === "today" ? "" : iso(midnight));
      if (isCurrent) preset.setAttribute("aria-current", "true");
      else preset.removeAttribute("aria-current");
    }
  };
  addEventListener("recall:zone", show);
  show();
}

/** @param {number} instant */
function iso(instant) {
  return new Date(instant).toISOString().replace(".000Z", "Z");
}

/** Tells the page of a recording what stands before and after it: `recall.results` in the session's storage. */
function keepResults() {
  const links = /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("#recordings .c-start a"));
  const page = (/** @type {string} */ rel) =>
    document.querySelector(`.pager a[rel=${rel}]`)?.getAttribute("href") ?? null;
  const results = {
    search: location.pathname + location.search,
    paths: [...links].map((link) => link.getAttribute("href")),
    previous: page("prev"),
    next: page("next"),
  };
  try {
    sessionStorage.setItem("recall.results", JSON.stringify(results));
  } catch {
    // Then a recording is shown without its neighbours.
  }
}

function watchColumns() {
  const root = document.documentElement;
  const hidden = new Set((root.dataset.hidden ?? "").split(" ").filter(Boolean));
  for (const input of document.querySelectorAll("#columns input")) {
    const box = /** @type {HTMLInputElement} */ (input);
    box.checked = !hidden.has(box.value);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value);
      else hidden.add(box.value);
      root.dataset.hidden = [...hidden].join(" ");
      prefer("hidden-columns", root.dataset.hidden);
    });
  }
  const menu = /** @type {HTMLDetailsElement | null} */ (document.getElementById("columns"));
  addEventListener("click", (event) => {
    if (menu?.open && !menu.contains(/** @type {Node} */ (event.target))) menu.open = false;
  });
  menu?.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary")?.focus();
  });
}

const REASON = "Reason (optional, kept with the lock and in the audit log)";

/**
 * What can be done with several recordings. `path` follows the recording's own; `body` is of the reason, or the
 * comment, and the name of the label.
 *
 * @typedef {{title: string, text: string, done: string, asks: string, most: number, path: string,
 *   body: (reason: string, label: string) => object, show: (row: HTMLElement) => void}} Action
 * @type {Record<string, Action>}
 */
const ACTIONS = {
  apply: {
    title: "Protect",
    text: "Nobody can delete a protected recording. Its screen recordings are protected with it.",
    done: "protected",
    asks: REASON,
    most: 500,
    path: "",
    body: (reason) => ({ operationName: "applyNonDelete", ...(reason && { reason }) }),
    show: (row) => row.classList.add("protected"),
  },
  unapply: {
    title: "Unprotect",
    text: "Recordings that are not protected can be deleted, by a purge too.",
    done: "no longer protected",
    asks: "Reason (optional, kept in the audit log)",
    most: 500,
    path: "",
    body: (reason) => ({ operationName: "unapplyNonDelete", ...(reason && { reason }) }),
    show: (row) => row.classList.remove("protected"),
  },
  label: {
    title: "Label",
    text: "A recording that has the label already gets the new comment.",
    done: "labelled",
    asks: "Comment (optional)",
    most: 1000,
    path: "/labels",
    body: (comment, name) => ({ name, ...(comment && { comment }) }),
    show: showLabel,
  },
};

/** @param {HTMLElement} row */
function showLabel(row) {
  const chosen = /** @type {HTMLSelectElement} */ (document.getElementById("act-label")).selectedOptions[0];
  const cell = /** @type {HTMLElement} */ (row.querySelector(".c-labels"));
  if ([...cell.querySelectorAll(".label")].some((label) => label.textContent === chosen.text)) return;
  const label = document.createElement("span");
  label.className = "label";
  const name = document.createElement("bdi");
  name.textContent = chosen.text;
  label.append(name);
  cell.append(label);
}

/**
 * Fills the choice of labels.
 *
 * @param {HTMLElement} text says so if there are none
 * @returns {Promise<boolean>} whether there is one
 */
async function offerLabels(text) {
  const select = /** @type {HTMLSelectElement} */ (document.getElementById("act-label"));
  select.replaceChildren();
  try {
    const { labelDefinitions } = await call("/recording-label-definitions");
    for (const { name, displayName } of labelDefinitions) select.add(new Option(displayName ?? name, name));
    if (!labelDefinitions.length) text.textContent = "No label is defined in this contact center yet.";
  } catch (error) {
    text.textContent = error instanceof ApiError ? error.message : String(error);
  }
  return select.length > 0;
}

function watchSelection() {
  const table = document.getElementById("recordings");
  const bar = document.getElementById("picked");
  if (!table || !bar) return;
  const all = /** @type {HTMLInputElement} */ (document.getElementById("pick-all"));
  const boxes = [.../** @type {NodeListOf<HTMLInputElement>} */ (table.querySelectorAll("input[name=pick]"))];
  const picked = () => boxes.filter((box) => box.checked).map((box) => /** @type {HTMLElement} */ (box.closest("tr")));
  /** @type {HTMLInputElement | null} */ let last = null;

  const show = () => {
    const count = picked().length;
    bar.hidden = !count;
    document.body.classList.toggle("has-picked", count > 0);
    const text = count === 1 ? "1 selected" : `${count} selected`;
    /** @type {HTMLElement} */ (document.getElementById("picked-count")).textContent = text;
    status.textContent = count ? text : "";
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && !all.checked;
    for (const box of boxes) box.closest("tr")?.classList.toggle("is-picked", box.checked);
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    show();
  });
  table.addEventListener("click", (event) => {
    const box = /** @type {HTMLInputElement} */ (event.target);
    if (box.name !== "pick") return;
    if (event.shiftKey && last) {
      const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((one, other) => one - other);
      for (const between of boxes.slice(from, to + 1)) between.checked = box.checked;
    }
    last = box;
    show();
  });
  document.getElementById("pick-none")?.addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    show();
    all.focus();
  });
  for (const button of bar.querySelectorAll("[data-action]")) {
    const action = ACTIONS[/** @type {string} */ (/** @type {HTMLElement} */ (button).dataset.action)];
    button.addEventListener("click", () => void ask(action, picked(), show));
  }
  show(); // a browser that goes back restores what was checked
}

/**
 * Asks whether and why, does it, and tells what became of each.
 *
 * @param {Action} action
 * @param {HTMLElement[]} rows
 * @param {() => void} show
 */
async function ask(action, rows, show) {
  const recordings = rows.length === 1 ? "1 recording" : `${rows.length} recordings`;
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("act"));
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(`act-${name}`));
  const reason = /** @type {HTMLTextAreaElement} */ (part("reason"));
  const go = /** @type {HTMLButtonElement} */ (part("go"));
  const progress = /** @type {HTMLProgressElement} */ (part("progress"));
  const stop = new AbortController();
  part("title").textContent = `${action.title} ${recordings}`;
  part("text").textContent = action.text;
  part("label-field").hidden = !action.path;
  part("reason-label").textContent = action.asks;
  reason.maxLength = action.most;
  part("text").hidden = false;
  part("reason-field").hidden = false;
  part("result").replaceChildren();
  part("cancel").textContent = "Cancel";
  progress.hidden = true;
  go.hidden = false;
  go.disabled = Boolean(action.path);
  go.textContent = action.title;
  reason.value = "";
  dialog.onclose = () => stop.abort();
  part("cancel").onclick = () => dialog.close();
  /** @type {HTMLFormElement} */ (part("form")).onsubmit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    go.textContent = "…";
    part("cancel").textContent = "Stop";
    progress.hidden = false;
    progress.max = rows.length;
    progress.value = 0;
    const byId = new Map(rows.map((row) => [/** @type {string} */ (row.dataset.id), row]));
    const body = action.body(reason.value.trim(), /** @type {HTMLSelectElement} */ (part("label")).value);
    const result = await operate(
      rows.map((row) => ({ id: /** @type {string} */ (row.dataset.id), path: apiPath(row) + action.path })),
      body,
      (done) => {
        progress.value = done;
      },
      stop.signal,
    );
    for (const id of result.succeeded) {
      const row = /** @type {HTMLElement} */ (byId.get(id));
      action.show(row);
      /** @type {HTMLInputElement} */ (row.querySelector("input[name=pick]")).checked = false;
    }
    show();
    const told = `${result.succeeded.length} ${action.done}`;
    if (!result.failed.length && !result.left.length) {
      dialog.close();
      status.textContent = told;
      tell(told);
      return;
    }
    progress.hidden = true;
    part("text").hidden = true;
    part("reason-field").hidden = true;
    part("label-field").hidden = true;
    go.hidden = true;
    part("cancel").textContent = "Close";
    part("cancel").focus();
    showFailures(part("result"), told, result);
    if (!dialog.open) tell(`${told}, ${result.left.length} not begun`);
  };
  dialog.showModal();
  if (action.path) go.disabled = !(await offerLabels(part("text")));
}

/**
 * @param {HTMLElement} place
 * @param {string} told
 * @param {{failed: import("./operations.js").Failure[], left: object[]}} result
 */
function showFailures(place, told, { failed, left }) {
  const summary = document.createElement("p");
  summary.textContent = [told, failed.length && `${failed.length} failed`, left.length && `${left.length} not begun`]
    .filter(Boolean)
    .join(", ");
  const list = document.createElement("ul");
  list.className = "failures";
  for (const { id, message } of failed) {
    const item = document.createElement("li");
    const name = document.createElement("bdi");
    name.textContent = id;
    const why = document.createElement("span");
    why.className = "quiet";
    why.textContent = ` ${message}`;
    item.append(name, why);
    list.append(item);
  }
  const hint = document.createElement("p");
  hint.textContent = "They stay selected, so that you can try again.";
  place.replaceChildren(summary, list, hint);
}

/**
 * @param {HTMLElement} row
 * @returns {string} the recording's path below /ui/api
 */
function apiPath(row) {
  const link = /** @type {HTMLAnchorElement} */ (row.querySelector(".c-start a"));
  return /** @type {string} */ (link.getAttribute("href")).replace("/ui/", "/");
}

/**
 * Says for a while what has happened.
 *
 * @param {string} text
 */
function tell(text) {
  const toast = document.createElement("div");
  toast.className = "toast";
  toast.textContent = text;
  document.body.append(toast);
  setTimeout(() => toast.remove(), 4000);
}

watchTimes();
watchPresets();
watchFolding();
keepResults();
watchColumns();
watchSelection();
