// The search: times in the chosen zone, columns, and operations on selected rows.

import { ApiError, call } from "./api.js";
import { onKey } from "./keys.js";
import { cancel, follow, named, operate, operateOnAll } from "./operations.js";
import { prefer } from "./preferences.js";
import { fromIso, isUtc, toIso } from "./times.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("search"));
const status = /** @type {HTMLElement} */ (document.getElementById("status"));

onKey("/", () => {
  form.classList.remove("folded");
  /** @type {HTMLElement | null} */ (form.querySelector(".fields input"))?.focus();
});

// A time of which a part is missing is empty for a form, and would be no criterion.
form.addEventListener("submit", (event) => {
  const pickers = [.../** @type {NodeListOf<HTMLInputElement>} */ (form.querySelectorAll("input[type=datetime-local]"))];
  const unfinished = pickers.find((picker) => picker.validity.badInput);
  if (!unfinished) return;
  event.preventDefault();
  form.classList.remove("folded");
  unfinished.reportValidity();
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
  if (menu) closeEasily(menu);
}

/**
 * Lets a menu close by a click elsewhere and by Escape.
 *
 * @param {HTMLDetailsElement} menu
 */
function closeEasily(menu) {
  addEventListener("click", (event) => {
    if (menu.open && !menu.contains(/** @type {Node} */ (event.target))) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary")?.focus();
  });
}

const REASON = "Reason (optional, kept with the lock and in the audit log)";

/**
 * What can be done with many recordings. `body` is of the reason, or the comment, and the name of the label.
 *
 * @typedef {{title: string, text: string, done: string, asks: string, most: number, isLabel: boolean,
 *   body: (reason: string, label: string) => object, show: (row: HTMLElement, label: string) => void}} Action
 * @type {Record<string, Action>}
 */
const ACTIONS = {
  apply: {
    title: "Protect",
    text: "Nobody can delete a protected recording. Its screen recordings are protected with it.",
    done: "protected",
    asks: REASON,
    most: 500,
    isLabel: false,
    body: (reason) => ({ operationName: "applyNonDelete", ...(reason && { reason }) }),
    show: (row) => row.classList.add("protected"),
  },
  unapply: {
    title: "Unprotect",
    text: "Recordings that are not protected can be deleted, by a purge too.",
    done: "no longer protected",
    asks: "Reason (optional, kept in the audit log)",
    most: 500,
    isLabel: false,
    body: (reason) => ({ operationName: "unapplyNonDelete", ...(reason && { reason }) }),
    show: (row) => row.classList.remove("protected"),
  },
  label: {
    title: "Label",
    text: "A recording that has the label already gets the new comment.",
    done: "labelled",
    asks: "Comment (optional)",
    most: 1000,
    isLabel: true,
    body: (comment, label) => ({ operationName: "addLabel", label, ...(comment && { comment }) }),
    show: showLabel,
  },
};

/**
 * @param {HTMLElement} row
 * @param {string} chosen what the label is called
 */
function showLabel(row, chosen) {
  const cell = /** @type {HTMLElement} */ (row.querySelector(".c-labels"));
  if ([...cell.querySelectorAll(".label")].some((label) => label.textContent === chosen)) return;
  const label = document.createElement("span");
  label.className = "label";
  const name = document.createElement("bdi");
  name.textContent = chosen;
  label.append(name);
  cell.append(label);
}

/**
 * Fills the choice of labels.
 *
 * @param {HTMLElement} text says so if there are none
 * @param {AbortSignal} signal of the dialog
 * @returns {Promise<boolean>} whether there is one
 */
async function offerLabels(text, signal) {
  const select = /** @type {HTMLSelectElement} */ (document.getElementById("act-label"));
  select.replaceChildren();
  try {
    const { labelDefinitions } = await call("/recording-label-definitions", { signal });
    if (signal.aborted) return false;
    for (const { name, displayName } of labelDefinitions) select.add(new Option(displayName ?? name, name));
    if (!labelDefinitions.length) text.textContent = "No label is defined in this contact center yet.";
  } catch (error) {
    if (signal.aborted) return false;
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

/** The menu of what can be done with all recordings that match, on every page of the result. */
function watchAll() {
  const menu = /** @type {HTMLDetailsElement | null} */ (document.getElementById("all"));
  if (!menu) return;
  closeEasily(menu);
  const criteria = JSON.parse(/** @type {string} */ (menu.dataset.criteria));
  for (const button of menu.querySelectorAll("[data-action]")) {
    const action = ACTIONS[/** @type {string} */ (/** @type {HTMLElement} */ (button).dataset.action)];
    button.addEventListener("click", () => {
      menu.open = false;
      menu.querySelector("summary")?.focus(); // where the dialog returns to
      void askForAll(action, criteria);
    });
  }
}

/** @param {string} name */
const part = (name) => /** @type {HTMLElement} */ (document.getElementById(`act-${name}`));

/** Ends when the dialog asks something else. */
let asked = new AbortController();

/**
 * Opens the dialog, which asks whether and why. The signal ends when it is closed: what comes later is not for it.
 *
 * @param {Action} action
 * @param {string} title
 * @param {string} text
 * @returns {{dialog: HTMLDialogElement, go: HTMLButtonElement, progress: HTMLProgressElement, body: () => object,
 *   label: () => string, signal: AbortSignal}} `label` is what the chosen label is called
 */
function openDialog(action, title, text) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("act"));
  const reason = /** @type {HTMLTextAreaElement} */ (part("reason"));
  const go = /** @type {HTMLButtonElement} */ (part("go"));
  const progress = /** @type {HTMLProgressElement} */ (part("progress"));
  const leave = /** @type {HTMLButtonElement} */ (part("cancel"));
  part("title").textContent = title;
  part("text").textContent = text;
  part("label-field").hidden = !action.isLabel;
  part("reason-label").textContent = action.asks;
  reason.maxLength = action.most;
  part("text").hidden = false;
  part("reason-field").hidden = false;
  part("result").replaceChildren();
  leave.textContent = "Cancel";
  leave.disabled = false;
  leave.onclick = () => dialog.close();
  progress.hidden = true;
  part("goes-on").hidden = true;
  go.hidden = false;
  go.disabled = true;
  go.textContent = action.title;
  reason.value = "";
  dialog.onclose = null;
  asked.abort();
  const mine = (asked = new AbortController());
  dialog.addEventListener("close", () => dialog.open || mine.abort(), { signal: mine.signal });
  dialog.showModal();
  const select = /** @type {HTMLSelectElement} */ (document.getElementById("act-label"));
  const body = () => action.body(reason.value.trim(), select.value);
  const label = () => select.selectedOptions[0]?.text ?? "";
  return { dialog, go, progress, body, label, signal: mine.signal };
}

/** The dialog asks nothing any more. */
function showProgress() {
  for (const name of ["text", "reason-field", "label-field", "go"]) part(name).hidden = true;
}

/**
 * Asks whether and why, does it with the selected rows, and tells what became of each.
 *
 * @param {Action} action
 * @param {HTMLElement[]} rows
 * @param {() => void} show
 */
async function ask(action, rows, show) {
  const recordings = rows.length === 1 ? "1 recording" : `${rows.length} recordings`;
  const { dialog, go, progress, body, label, signal } = openDialog(action, `${action.title} ${recordings}`, action.text);
  /** @type {HTMLFormElement} */ (part("form")).onsubmit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    go.textContent = "…";
    part("cancel").textContent = "Close";
    progress.hidden = false;
    progress.removeAttribute("value");
    const byId = new Map(rows.map((row) => [/** @type {string} */ (row.dataset.id), row]));
    const chosen = label();
    let result;
    try {
      result = await operate([...byId.keys()], body());
    } catch (error) {
      if (signal.aborted) {
        tell(error instanceof ApiError ? error.message : String(error));
        return;
      }
      progress.hidden = true;
      part("cancel").focus();
      go.hidden = true;
      part("result").textContent = error instanceof ApiError ? error.message : String(error);
      return;
    }
    for (const id of result.succeeded) {
      const row = /** @type {HTMLElement} */ (byId.get(id));
      action.show(row, chosen);
      /** @type {HTMLInputElement} */ (row.querySelector("input[name=pick]")).checked = false;
    }
    show();
    const told = `${result.succeeded.length} ${action.done}`;
    if (!result.failed.length) {
      if (!signal.aborted) dialog.close();
      status.textContent = told;
      tell(told);
      return;
    }
    if (signal.aborted) {
      tell(`${told}, ${result.failed.length} failed`);
      return;
    }
    progress.hidden = true;
    showProgress();
    part("cancel").focus();
    const hint = "They stay selected, so that you can try again.";
    showFailures(part("result"), `${told}, ${result.failed.length} failed`, result.failed, hint);
  };
  const canGo = !action.isLabel || (await offerLabels(part("text"), signal));
  if (!signal.aborted) go.disabled = !canGo;
}

/**
 * Asks whether and why, begins it on all recordings that match, and shows how far it is.
 *
 * @param {Action} action
 * @param {Record<string, string>} criteria
 */
async function askForAll(action, criteria) {
  const { dialog, go, progress, body, signal } = openDialog(action, `${action.title} all that match`, "…");
  const leave = /** @type {HTMLButtonElement} */ (part("cancel"));
  /** @type {HTMLFormElement} */ (part("form")).onsubmit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    let path;
    try {
      path = await operateOnAll(criteria, body());
    } catch (error) {
      if (signal.aborted) return; // nothing was begun, as who closed the dialog expects
      part("cancel").focus();
      go.hidden = true;
      part("result").textContent = error instanceof ApiError ? error.message : String(error);
      return;
    }
    if (signal.aborted) {
      // Who pressed "Cancel" meanwhile did not want it.
      const stopped = await cancel(path).then(() => true, () => false);
      tell(stopped ? "It had begun, and was stopped: see Operations." : "It goes on and could not be stopped: see Operations.");
      return;
    }
    showProgress();
    part("goes-on").hidden = false;
    progress.hidden = false;
    progress.removeAttribute("value");
    leave.textContent = "Stop";
    leave.focus();
    leave.onclick = async () => {
      leave.disabled = true;
      try {
        await cancel(path);
      } catch (error) {
        leave.disabled = false;
        part("result").textContent = error instanceof ApiError ? error.message : String(error);
      }
    };
    const tellThatItGoesOn = () => tell("It goes on by itself: see Operations.");
    signal.addEventListener("abort", tellThatItGoesOn);
    let over;
    try {
      over = await follow(
        path,
        ({ matched, succeeded, failed }) => {
          progress.max = Math.max(matched, 1);
          progress.value = succeeded + failed;
          part("result").textContent = `${many(succeeded + failed)} of ${many(matched)}`;
        },
        signal,
      );
    } catch (error) {
      if (signal.aborted) return;
      part("result").textContent = error instanceof ApiError ? error.message : String(error);
      return;
    }
    if (!over) return;
    signal.removeEventListener("abort", tellThatItGoesOn);
    dialog.onclose = () => location.reload();
    progress.hidden = true;
    part("goes-on").hidden = true;
    leave.textContent = "Close";
    leave.disabled = false;
    leave.onclick = () => dialog.close();
    leave.focus();
    const told = [`${many(over.succeeded)} ${action.done}`, over.failed && `${many(over.failed)} failed`];
    if (over.state === "cancelled") told.push(`stopped after ${many(over.succeeded + over.failed)} of ${many(over.matched)}`);
    const hint = over.statusMessage ?? (over.failed > over.failures.length ? "These are the first." : "");
    showFailures(part("result"), told.filter(Boolean).join(", "), over.failures.map(named), hint);
  };
  try {
    const query = new URLSearchParams({ ...criteria, limit: "1", total: "*" });
    const { total, totalIsExact } = await call(`/recordings?${query}`, { signal });
    if (signal.aborted) return;
    const count = totalIsExact ? many(total) : `more than ${many(total)}`;
    part("text").textContent =
      `${count} ${total === 1 ? "recording matches" : "recordings match"}, on all pages of the result. ${action.text}`;
    go.textContent = `${action.title} ${count} ${total === 1 ? "recording" : "recordings"}`;
    const canGo = !action.isLabel || (await offerLabels(part("text"), signal));
    if (!signal.aborted) go.disabled = !canGo;
  } catch (error) {
    if (signal.aborted) return;
    part("text").textContent = error instanceof ApiError ? error.message : String(error);
  }
}

/** @param {number} count */
function many(count) {
  return count.toLocaleString("en-US");
}

/**
 * @param {HTMLElement} place
 * @param {string} told
 * @param {import("./operations.js").Failure[]} failed
 * @param {string} hint
 */
function showFailures(place, told, failed, hint) {
  const summary = document.createElement("p");
  summary.textContent = told;
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
  const last = document.createElement("p");
  last.textContent = hint;
  place.replaceChildren(summary, ...(failed.length ? [list] : []), ...(hint ? [last] : []));
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
watchAll();
