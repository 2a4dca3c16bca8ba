// Who did what with a recording, from the audit log. Only for those who may search it: others have no such part.

import { ApiError, callUntilAnswered } from "./api.js";
import { showTimes } from "./times.js";

const ROWS = 50;
// Of what an update changed, so many are named.
const CHANGES = 5;
// So long a line may take until the log can be searched, in ms.
const SEARCHABLE_AFTER = 4000;

/**
 * A line of the audit log, or several of one listening.
 *
 * @typedef {{time: string, user: string | null, address: string | null, operation: string, resource: string | null,
 *   outcome: string, httpStatus: number | null, reason?: string, label?: string, comment?: string, mediaId?: string,
 *   media?: string, bytesSent?: number, listen?: string, download?: boolean, changed?: string[],
 *   screenRecordings?: string[]}} Entry
 */

/** @type {Record<string, string>} */
const DEEDS = {
  play: "Played",
  apply: "Protected",
  unapply: "Unprotected",
  protection: "Tried to change the protection",
  "add-label": "Labelled",
  "update-label": "Commented on the label",
  "delete-label": "Removed the label",
  create: "Stored",
  update: "Updated",
  delete: "Deleted",
  "delete-media": "Deleted a media file",
  purge: "Deleted by a purge",
  export: "Exported as evidence",
  read: "Read",
  waveform: "Looked at the waveform",
};

/**
 * Fills the history, if the page has one, and again after each change.
 *
 * @param {string} recordingId
 */
export function watchHistory(recordingId) {
  const list = document.getElementById("history-list");
  if (!list) return;
  const note = byId("history-note");
  const more = byId("history-more");
  const again = byId("history-again");
  const first = `/audit?${new URLSearchParams({ recordingId, limit: String(ROWS) })}`;
  let next = first;
  let turn = 0;
  /** @type {Map<string, HTMLElement>} */ const listenings = new Map();

  const load = async (/** @type {boolean} */ anew) => {
    const mine = (turn += 1);
    if (anew) next = first;
    const tell = (/** @type {string} */ problem) => {
      if (mine === turn) note.textContent = problem;
    };
    let answer;
    try {
      answer = await callUntilAnswered(next, tell);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      tell(error.message);
      return;
    }
    if (mine !== turn) return; // somebody has asked again since
    if (anew) {
      list.replaceChildren();
      listenings.clear();
    }
    for (const entry of answer.entries) if (entry.resource !== "screen-recordings") add(list, listenings, entry);
    next = answer.nextUri ? new URL(answer.nextUri).pathname.replace("/ui/api", "") + new URL(answer.nextUri).search : "";
    more.hidden = !next;
    note.textContent = list.children.length ? "" : "The audit log has nothing about this recording yet.";
    showTimes(list);
  };
  again.addEventListener("click", () => void load(true));
  more.addEventListener("click", () => void load(false));
  addEventListener("recall:changed", () => setTimeout(() => void load(true), SEARCHABLE_AFTER));
  void load(true);
}

/**
 * Adds a line, or counts it to the listening that it is of.
 *
 * @param {HTMLElement} list
 * @param {Map<string, HTMLElement>} listenings
 * @param {Entry} entry
 */
function add(list, listenings, entry) {
  const key = entry.operation === "play" && entry.listen && entry.outcome === "success" ? entry.listen : "";
  const known = key ? listenings.get(`${key} ${entry.user} ${entry.media}`) : undefined;
  const time = document.createElement("time");
  time.dateTime = entry.time;
  if (known) {
    // A listening began with its first request.
    known.querySelector("time")?.replaceWith(time);
    return;
  }
  const row = document.createElement("li");
  const who = text("bdi", entry.user ?? "unknown", "who-did");
  const deed = document.createElement("span");
  deed.append(text("strong", deedOf(entry)), ...about(entry));
  if (entry.outcome !== "success") {
    row.classList.add("not-done");
    const status = entry.httpStatus === null ? "" : ` with ${entry.httpStatus}`;
    deed.append(" ", text("span", `${entry.outcome}${status}`, "outcome"));
  }
  row.append(time, who, deed, text("bdi", entry.address ?? "", "quiet from"));
  list.append(row);
  if (key) listenings.set(`${key} ${entry.user} ${entry.media}`, row);
}

/** @param {Entry} entry */
function deedOf(entry) {
  if (entry.operation === "play" && entry.download) return "Downloaded";
  return DEEDS[entry.operation] ?? entry.operation;
}

/**
 * @param {Entry} entry
 * @returns {(string | HTMLElement)[]} what is told beside the deed
 */
function about(entry) {
  const parts = [];
  if (entry.operation === "play") parts.push(" ", text("bdi", entry.mediaId ?? entry.media ?? "", "quiet"));
  if (entry.label) parts.push(" ", text("bdi", entry.label));
  if (entry.screenRecordings?.length) {
    const { length } = entry.screenRecordings;
    parts.push(text("span", length === 1 ? " with 1 screen recording" : ` with ${length} screen recordings`, "quiet"));
  }
  if (entry.changed?.length) {
    const more = entry.changed.length - CHANGES;
    const shown = entry.changed.slice(0, CHANGES).join(", ");
    parts.push(" ", text("bdi", more > 0 ? `${shown} and ${more} more` : shown, "quiet"));
  }
  const said = entry.reason ?? entry.comment;
  if (said) parts.push(" ", text("bdi", `“${said}”`, "said"));
  return parts;
}

/**
 * @param {string} name
 * @param {string} content
 * @param {string} [className]
 */
function text(name, content, className = "") {
  const element = document.createElement(name);
  element.textContent = content;
  element.className = className;
  return element;
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
