// The page of one recording: its player, its waveforms, and what can be done with it.

import { ApiError, call, callUntilAnswered, pause, waits } from "./api.js";
import { watchHistory } from "./history.js";
import { onKey } from "./keys.js";
import { Player } from "./player.js";
import { prefer, preference } from "./preferences.js";
import { keepAlive, signInAgain } from "./session.js";
import { showTimes } from "./times.js";
import { Wave } from "./wave.js";

/** @typedef {{name: string, kind: string, type: string, start: number, duration: number, path: string, masks: [number, number][], encrypted: boolean}} Media */
/** @type {{path: string, id: string, start: number, seconds: number, callUUIDs: string[], media: Media[]}} */
const data = JSON.parse(byId("recording-data").textContent ?? "");
const status = byId("status");
const player = new Player(data.seconds);
/** @type {Wave[]} */ const waves = [];
// Each element of a listening asks for several ranges; this tells that they are one.
const listen = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
/** The part of the recording that is shown. */
const shown = { start: 0, end: data.seconds };
/** @type {Map<Wave, [number, number][]>} */ const silences = new Map();
/** @type {{name: string, displayName: string}[]} */ let definitions = [];
let takesAlong = "";

addMedia();
watchPlayer();
watchTimeline();
watchCopying();
watchNeighbours();
watchProtection();
watchLabels();
void loadDefinitions();
void addScreens();
watchDownloads();
watchHistory(data.id);
goToFragment();
addEventListener("hashchange", goToFragment);

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {number} seconds */
function clockText(seconds) {
  const whole = Math.floor(Math.max(seconds, 0));
  const tail = String(whole % 60).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/** @param {number} seconds */
function inWords(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const names = ["hour", "minute", "second"];
  const words = parts.map((n, i) => (n || (i === 2 && whole < 60) ? `${n} ${names[i]}${n === 1 ? "" : "s"}` : ""));
  return words.filter(Boolean).join(" ");
}

/** @param {string} path */
function source(path) {
  return `/ui/api${path}?listen=${listen}`;
}

/**
 * @param {string} name
 * @param {string} text
 */
function tellWhy(name, text) {
  const why = document.querySelector(`li[data-media="${CSS.escape(name)}"] .why`);
  if (why) why.textContent = text;
}

function addMedia() {
  const sounds = data.media.filter((media) => media.kind === "audio");
  for (const media of sounds) {
    const element = document.createElement("audio");
    element.preload = "none";
    const row = /** @type {HTMLElement} */ (document.querySelector(`.track[data-media="${CSS.escape(media.name)}"]`));
    const wave = new Wave(/** @type {HTMLCanvasElement} */ (row.querySelector("canvas")), media, data.seconds);
    waves.push(wave);
    const state = /** @type {HTMLElement} */ (row.querySelector(".state"));
    if (media.encrypted) state.textContent = "encrypted";
    else if (element.canPlayType(media.type) === "" && !/wav|mpeg|ogg|flac|mp3/.test(media.type)) {
      tellWhy(media.name, "This browser does not play its type. Download it to listen.");
    }
    if (!media.encrypted) {
      element.src = source(media.path);
      document.body.append(element);
      player.add(element, media.start, media.duration);
      element.dataset.name = media.name;
    }
    void load(wave, media, state);
  }
  player.skipped = unheard();
  if (!sounds.some((media) => !media.encrypted) && !data.media.some((media) => media.kind === "video")) {
    /** @type {HTMLButtonElement} */ (byId("play")).disabled = true;
    tellProblem("There is nothing that can be played here. The media files say why.");
  }
  for (const media of data.media.filter((each) => each.kind === "video")) addVideo(media, "Screen");
  player.addEventListener("failed", (event) => void recover(/** @type {CustomEvent} */ (event).detail));
}

/**
 * Asks the service why a track has failed, for a browser does not tell, and plays it again when that has passed.
 *
 * @param {import("./player.js").Track} track
 */
async function recover(track) {
  const { element } = track;
  const name = element.dataset.name ?? "";
  const tell = (/** @type {string} */ why) => {
    tellWhy(name, why);
    tellProblem(why);
  };
  /** @type {Record<string, string>} */ const headers = { Range: "bytes=0-0" };
  for (const wait of waits()) {
    const response = await fetch(element.src, { headers }).catch(() => null);
    headers["Recall-Activity"] = "none"; // what is tried again by itself does not prolong the session
    if (response?.ok) {
      void response.body?.cancel();
      // What fails twice although its bytes are there will fail again.
      const isHopeless = element.dataset.retried === "yes";
      tell(isHopeless ? "It cannot be played here: this browser does not know its codec. Download it to listen." : "");
      element.dataset.retried = "yes";
      element.addEventListener("playing", () => delete element.dataset.retried, { once: true });
      if (isHopeless) player.giveUp(track);
      else player.retry(track);
      return;
    }
    if (response?.status === 401) {
      keepPlace();
      signInAgain();
      return;
    }
    const envelope = await response?.json().catch(() => null);
    const error = response
      ? new ApiError(response.status, envelope?.statusCode ?? 4, envelope?.statusMessage ?? "It cannot be played.")
      : new ApiError(0, 0, "The service cannot be reached at the moment.");
    if (!error.passes) {
      tell(error.message);
      player.giveUp(track);
      return;
    }
    tell(error.inTheMeantime);
    await pause(wait);
  }
}

/** @param {string} text nothing if all is well */
function tellProblem(text) {
  const problem = byId("player-problem");
  problem.textContent = text;
  problem.hidden = !text;
}

/**
 * @param {Wave} wave
 * @param {Media} media
 * @param {HTMLElement} state
 */
async function load(wave, media, state) {
  const path = media.path.replace("/play/", "/peaks/");
  const tell = (/** @type {string} */ why) => {
    state.textContent = why && `No waveform: ${why}`;
  };
  let isActivity = true;
  try {
    for (const wait of waits(2000)) {
      const answer = await callUntilAnswered(path, tell, isActivity);
      isActivity = false;
      if (answer.peaks) {
        showWave(wave, media, answer.peaks);
        return;
      }
      wave.draw();
      const passes = answer.reason === "busy" || answer.reason === "storage";
      if (answer.reason === "busy") state.textContent = "The waveform follows.";
      else tell(passes ? `${answer.message} Trying again …` : answer.message);
      if (answer.reason === "missing" || answer.reason === "storage") tellWhy(media.name, answer.message);
      if (!passes) return;
      await pause(wait);
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    tell(error.message);
  }
}

/**
 * @param {Wave} wave
 * @param {Media} media
 * @param {import("./wave.js").Peaks} peaks
 */
function showWave(wave, media, peaks) {
  wave.show(peaks);
  if (peaks.duration > media.duration + 0.5) media.duration = peaks.duration; // recorders round, or tell nothing
  silences.set(wave, wave.silences());
  const track = player.tracks.find(({ element }) => element.dataset.name === media.name);
  if (track && peaks.duration > 0) player.learn(track, peaks.duration);
  player.skipped = unheard();
  const row = /** @type {HTMLElement} */ (document.querySelector(`.track[data-media="${CSS.escape(media.name)}"]`));
  for (const channel of row.querySelectorAll(".channel")) {
    /** @type {HTMLElement} */ (channel).hidden = peaks.channels.length < 2;
  }
  if (player.tracks.every((track) => track.element.dataset.name !== media.name || track.state !== "failed")) {
    tellWhy(media.name, "");
  }
}

/**
 * Returns when nothing is to be heard: each sound is paused, silent or elsewhere.
 *
 * @returns {[number, number][]}
 */
function unheard() {
  const heard = waves.filter(({ media }) => media.duration > 0 && !media.encrypted);
  if (!heard.length) return [];
  return heard
    .map((wave) => {
      const { start, duration, masks } = wave.media;
      /** @type {[number, number][]} */ const elsewhere = [[0, start], [start + duration, player.seconds]];
      return joined([...elsewhere, ...masks, ...(silences.get(wave) ?? [])]);
    })
    .reduce((one, other) =>
      one.flatMap(([a, b]) =>
        other.map(([c, d]) => /** @type {[number, number]} */ ([Math.max(a, c), Math.min(b, d)])).filter(isLong),
      ),
    )
    .filter(isLong);
}

/** @param {[number, number]} span */
function isLong([start, end]) {
  return end - start > 1;
}

/**
 * Joins spans that overlap or touch.
 *
 * @param {[number, number][]} spans
 */
function joined(spans) {
  /** @type {[number, number][]} */ const found = [];
  for (const [start, end] of spans.filter(([from, to]) => to > from).sort(([one], [other]) => one - other)) {
    const last = found.at(-1);
    if (last && start <= last[1] + 0.1) last[1] = Math.max(last[1], end);
    else found.push([start, end]);
  }
  return found;
}

/**
 * @param {Media} media
 * @param {string} title
 */
function addVideo(media, title) {
  const screens = byId("screens");
  screens.hidden = false;
  const figure = document.createElement("figure");
  const video = document.createElement("video");
  const caption = document.createElement("figcaption");
  figure.className = "unseen-yet";
  video.addEventListener("loadeddata", () => figure.classList.remove("unseen-yet"), { once: true });
  video.preload = "none";
  video.muted = true;
  video.playsInline = true;
  video.src = source(media.path);
  video.dataset.name = media.name;
  video.setAttribute("aria-label", title);
  caption.textContent = `${title}, without sound, in step with the call`;
  figure.append(video, caption);
  screens.append(figure);
  player.add(video, media.start, media.duration);
}

/** Screen recordings are those that share a call with this recording. */
async function addScreens() {
  /** @type {Map<string, any>} */ const found = new Map();
  const tell = (/** @type {string} */ problem) => tellWhatGoesAlong(problem && `Screen recordings: ${problem}`);
  try {
    for (const callUUID of data.callUUIDs.slice(0, 10)) {
      const query = new URLSearchParams({ callUUID, limit: "20" });
      const { screenRecordings } = await callUntilAnswered(`/screen-recordings?${query}`, tell);
      for (const each of screenRecordings) found.set(each.id, each);
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    tell(error.message);
    return;
  }
  let number = 0;
  for (const recording of found.values()) {
    for (const media of recording.mediaFiles) {
      number += 1;
      const start = (Date.parse(media.startTime.replace("+0000", "Z")) - data.start) / 1000;
      const stop = (Date.parse(media.stopTime.replace("+0000", "Z")) - data.start) / 1000;
      addVideo({ ...media, name: media.mediaPath.split("/").pop(), path: media.mediaPath, start, duration: Math.max(stop - start, 0) }, `Screen ${number}`);
    }
  }
  const count = found.size === 1 ? "1 screen recording" : `${found.size} screen recordings`;
  if (found.size) tellWhatGoesAlong(`Protection takes along ${count}.`);
}

/** @param {string} text */
function tellWhatGoesAlong(text) {
  takesAlong = text;
  byId("takes-along").textContent = text;
}

function watchPlayer() {
  const slider = byId("position");
  const play = byId("play");
  let lastTold = Date.now();
  const show = () => {
    const { position, seconds } = player;
    play.textContent = player.playing ? "Pause" : "Play";
    for (const text of document.querySelectorAll("[data-position]")) text.textContent = clockText(position);
    slider.setAttribute("aria-valuenow", position.toFixed(1));
    slider.setAttribute("aria-valuetext", `${inWords(position)} of ${inWords(seconds)}`);
    byId("done").style.width = `${seconds ? (position / seconds) * 100 : 0}%`;
    place(byId("playhead"), position, position);
    const { loopStart, loopEnd } = player;
    byId("loop-range").hidden = loopStart === null;
    place(byId("loop-range"), loopStart ?? 0, loopEnd ?? loopStart ?? 0);
    byId("loop-a").setAttribute("aria-pressed", String(loopStart !== null));
    byId("loop-b").setAttribute("aria-pressed", String(loopEnd !== null));
    byId("loop-off").hidden = loopStart === null && loopEnd === null;
    byId("mute").setAttribute("aria-pressed", String(player.muted));
    // Who listens is there, without any other request.
    if (player.playing && Date.now() - lastTold > 120_000) {
      lastTold = Date.now();
      void keepAlive();
    }
  };
  player.addEventListener("change", show);
  player.addEventListener("skipped", (event) => {
    status.textContent = `Skipped ${inWords(Math.max(1, /** @type {CustomEvent} */ (event).detail))}`;
  });
  play.addEventListener("click", () => player.toggle());
  for (const button of document.querySelectorAll("[data-by]")) {
    const by = Number(/** @type {HTMLElement} */ (button).dataset.by);
    button.addEventListener("click", () => player.seek(player.position + by));
  }
  const seekTo = (/** @type {PointerEvent} */ event) => {
    const box = slider.getBoundingClientRect();
    player.seek(((event.clientX - box.left) / box.width) * player.seconds);
  };
  slider.addEventListener("pointerdown", (event) => {
    slider.setPointerCapture(event.pointerId);
    seekTo(event);
  });
  slider.addEventListener("pointermove", (event) => event.buttons && seekTo(event));
  byId("player").addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement || event.ctrlKey || event.altKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    const onSlider = event.target === slider;
    let to;
    if (by) to = player.position + by * (event.shiftKey ? 1 : 5);
    else if (!onSlider) return;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = player.seconds;
    else if (event.key === "PageUp") to = player.position + 30;
    else if (event.key === "PageDown") to = player.position - 30;
    if (to === undefined) return;
    event.preventDefault();
    player.seek(to);
  });

  const speed = /** @type {HTMLInputElement} */ (byId("speed"));
  const setSpeed = (/** @type {number} */ wanted) => {
    if (!(wanted > 0)) wanted = 1;
    player.speed = Math.round(Math.min(Math.max(wanted, 0.5), 3) * 10) / 10;
    speed.value = String(player.speed);
    prefer("speed", speed.value);
    player.apply();
  };
  speed.addEventListener("change", () => setSpeed(Number(speed.value)));
  for (const button of document.querySelectorAll("[data-speed]")) {
    button.addEventListener("click", () => setSpeed(Number(/** @type {HTMLElement} */ (button).dataset.speed)));
  }
  const skip = /** @type {HTMLInputElement} */ (byId("skip"));
  const setSkip = () => {
    player.skips = skip.checked;
    status.textContent = skip.checked ? "Skips pauses and silence" : "Plays everything";
  };
  skip.addEventListener("change", setSkip);
  const volume = /** @type {HTMLInputElement} */ (byId("volume"));
  const setVolume = () => {
    player.volume = Number(volume.value) / 100;
    prefer("volume", volume.value);
    player.apply();
  };
  volume.addEventListener("input", setVolume);
  const balance = /** @type {HTMLInputElement} */ (byId("balance"));
  balance.addEventListener("input", () => {
    player.balance = Number(balance.value) / 100;
    player.apply();
  });
  const mute = () => {
    player.muted = !player.muted;
    player.apply();
  };
  byId("mute").addEventListener("click", mute);
  const loop = (/** @type {"loopStart" | "loopEnd"} */ end) => {
    player[end] = player.position;
    if (player.loopStart === null) player.loopStart = 0;
    if (player.loopEnd !== null && player.loopEnd <= player.loopStart) player.loopEnd = null;
    status.textContent = `Loop from ${inWords(player.loopStart)}${player.loopEnd === null ? "" : ` to ${inWords(player.loopEnd)}`}`;
    player.changed();
  };
  byId("loop-a").addEventListener("click", () => loop("loopStart"));
  byId("loop-b").addEventListener("click", () => loop("loopEnd"));
  byId("loop-off").addEventListener("click", () => {
    player.loopStart = player.loopEnd = null;
    player.changed();
    byId("loop-a").focus();
  });

  const toggle = () => player.toggle();
  addEventListener("keydown", (event) => {
    // A button in focus is pressed by Space, whatever the player does.
    if (event.key === " " && /** @type {HTMLElement} */ (event.target).closest("button, a, summary, input[type=checkbox]")) {
      event.stopImmediatePropagation();
    }
  }, { capture: true });
  onKey(" ", toggle);
  for (const [keys, action] of /** @type {[string, () => void][]} */ ([
    ["kK", toggle],
    ["jJ", () => player.seek(player.position - 10)],
    ["lL", () => player.seek(player.position + 10)],
    ["-", () => setSpeed(player.speed - 0.1)],
    ["+", () => setSpeed(player.speed + 0.1)],
    ["mM", mute],
    ["sS", () => {
      skip.checked = !skip.checked;
      setSkip();
    }],
    ["aA", () => loop("loopStart")],
    ["bB", () => loop("loopEnd")],
  ])) {
    for (const key of keys) onKey(key, action);
  }
  for (const button of document.querySelectorAll("button.seek")) {
    button.addEventListener("click", () => player.seek(Number(/** @type {HTMLElement} */ (button).dataset.second)));
  }
  const extras = byId("extras");
  byId("more-controls").addEventListener("click", (event) => {
    const isOpen = extras.classList.toggle("open");
    /** @type {HTMLElement} */ (event.currentTarget).setAttribute("aria-expanded", String(isOpen));
  });
  // Nothing may end under the player, however many lines it has.
  new ResizeObserver(([{ target }]) => {
    document.documentElement.style.setProperty("--player", `${target.getBoundingClientRect().height}px`);
  }).observe(byId("player"));
  volume.value = preference("volume", "100");
  setVolume();
  setSpeed(Number(preference("speed", "1")));
  show();
}

/**
 * Puts a mark over the tracks.
 *
 * @param {HTMLElement} mark
 * @param {number} from
 * @param {number} to
 */
function place(mark, from, to) {
  const track = document.querySelector("#tracks .lane, #tracks .wave");
  if (!track) return;
  const box = track.getBoundingClientRect();
  const outer = byId("tracks").getBoundingClientRect();
  const length = shown.end - shown.start || 1;
  const left = Math.min(Math.max((from - shown.start) / length, 0), 1);
  const right = Math.min(Math.max((to - shown.start) / length, 0), 1);
  mark.style.left = `${box.left - outer.left + left * box.width}px`;
  if (to > from) mark.style.width = `${(right - left) * box.width}px`;
  mark.classList.toggle("outside", from > shown.end || to < shown.start);
}

function watchTimeline() {
  const tracks = byId("tracks");
  tracks.addEventListener("click", (event) => {
    const track = /** @type {Element} */ (event.target).closest(".lane, .wave");
    if (!track) return;
    const box = track.getBoundingClientRect();
    player.seek(shown.start + ((event.clientX - box.left) / box.width) * (shown.end - shown.start));
  });
  const out = /** @type {HTMLButtonElement} */ (byId("zoom-out"));
  const scale = 1000 / (data.seconds || 1); // the lanes are drawn for the length that the recorder says
  const look = (/** @type {number} */ wanted) => {
    const length = Math.min(Math.max(wanted, Math.min(1, player.seconds)), player.seconds);
    shown.start = Math.min(Math.max(player.position - length / 2, 0), player.seconds - length);
    shown.end = shown.start + length;
    out.disabled = length >= player.seconds;
    for (const lane of tracks.querySelectorAll("svg.lane")) {
      lane.setAttribute("viewBox", `${shown.start * scale} 0 ${length * scale} 10`);
    }
    for (const wave of waves) void refine(wave);
    player.changed();
  };
  const zoom = (/** @type {number} */ factor) => {
    look((shown.end - shown.start) * factor);
    status.textContent = `Shows ${clockText(shown.start)} to ${clockText(shown.end)}`;
  };
  player.addEventListener("longer", () => {
    byId("position").setAttribute("aria-valuemax", String(player.seconds));
    look(out.disabled ? player.seconds : shown.end - shown.start);
  });
  byId("zoom-in").addEventListener("click", () => zoom(0.5));
  out.addEventListener("click", () => zoom(2));
  new ResizeObserver(() => {
    for (const wave of waves) wave.draw();
    player.changed();
  }).observe(tracks);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => waves.forEach((wave) => wave.draw()));
}

/**
 * Draws a part of a waveform, and asks for a finer one.
 *
 * @param {Wave} wave
 */
async function refine(wave) {
  wave.look(shown.start, shown.end);
  if (!wave.peaks || shown.end - shown.start > player.seconds / 4) return;
  const { start, end } = shown;
  const { path } = wave.media;
  const from = Math.max(start - wave.media.start, 0);
  const to = Math.max(end - wave.media.start, from + 0.001);
  const part = new URLSearchParams({ from: from.toFixed(3), to: to.toFixed(3) });
  const answer = await call(`${path.replace("/play/", "/peaks/")}?${part}`).catch(() => null);
  if (answer?.peaks && start === shown.start && end === shown.end) wave.refine(answer.peaks);
}

function watchCopying() {
  const address = location.origin + location.pathname;
  const copy = async (/** @type {string} */ text, /** @type {string} */ told) => {
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = told;
      toast(told);
    } catch {
      prompt("Copy this:", text); // without https a browser has no clipboard
    }
  };
  const id = document.querySelector(".facts .id")?.textContent ?? "";
  byId("copy-id").addEventListener("click", () => copy(id, "Id copied"));
  byId("copy-link").addEventListener("click", () => copy(address, "Link copied"));
  byId("copy-here").addEventListener("click", () => {
    const second = Math.floor(player.position);
    void copy(`${address}#t=${second}`, `Link at ${clockText(second)} copied`);
  });
}

/** @param {string} text */
function toast(text) {
  const element = document.createElement("div");
  element.className = "toast";
  element.textContent = text;
  document.body.append(element);
  setTimeout(() => element.remove(), 4000);
}

function goToFragment() {
  const found = /^#t=([0-9]+(?:\.[0-9]+)?)$/.exec(location.hash);
  if (found) player.seek(Number(found[1]));
}

/** Where the search has left what it found. */
function watchNeighbours() {
  /** @type {{search: string, paths: string[], previous: string | null, next: string | null} | null} */
  let results = null;
  try {
    results = JSON.parse(sessionStorage.getItem("recall.results") ?? "null");
  } catch {
    return;
  }
  const at = results?.paths.indexOf(location.pathname) ?? -1;
  if (!results) return;
  const link = (/** @type {string} */ id, /** @type {string | null | undefined} */ to) => {
    if (!to?.startsWith("/ui/recordings")) return;
    const element = /** @type {HTMLAnchorElement} */ (byId(id));
    element.href = to;
    element.hidden = false;
  };
  link("back", results.search);
  if (at < 0) return;
  link("previous", results.paths[at - 1] ?? results.previous);
  link("next", results.paths[at + 1] ?? results.next);
}

const REASON = "Reason (optional, kept with the lock and in the audit log)";

/**
 * What is asked before something is done. `asks` is what the text is for, if one is asked for, and `most` its length.
 *
 * @typedef {{title: string, text: string, go?: string, operationName?: string, asks?: string, most?: number}} Words
 * @type {Record<string, Words>}
 */
const WORDS = {
  apply: {
    operationName: "applyNonDelete",
    title: "Protect",
    text: "Nobody can delete a protected recording. Its screen recordings are protected with it.",
    asks: REASON,
    most: 500,
  },
  unapply: {
    operationName: "unapplyNonDelete",
    title: "Unprotect",
    text: "A recording that is not protected can be deleted, by a purge too.",
    asks: "Reason (optional, kept in the audit log)",
    most: 500,
  },
  comment: { title: "Comment", text: "", go: "Save", asks: "Comment (empty: none)", most: 1000 },
  download: { title: "Download", text: "The file leaves Recall. The audit log keeps who downloaded it, and when." },
  package: {
    title: "Evidence package",
    text: "One zip leaves Recall: the recording, its media files, its screen recordings, and what the audit log says of it. The audit log keeps who took it, and when.",
    go: "Download",
  },
};

/** How often something was asked: an answer that comes later is not for the dialog that is open then. */
let questions = 0;

/**
 * @param {Words} words
 * @param {(text: string) => Promise<void>} act
 * @param {string} [value] the text until now
 */
function ask(words, act, value = "") {
  const dialog = /** @type {HTMLDialogElement} */ (byId("act"));
  const go = /** @type {HTMLButtonElement} */ (byId("act-go"));
  const text = /** @type {HTMLTextAreaElement} */ (byId("act-reason"));
  byId("act-title").textContent = words.title;
  byId("act-text").textContent = words.text;
  byId("act-reason-field").hidden = !words.asks;
  byId("act-asks").textContent = words.asks ?? "";
  byId("act-problem").hidden = true;
  go.textContent = words.go ?? words.title;
  go.disabled = false;
  text.maxLength = words.most ?? 0;
  text.value = value;
  byId("act-cancel").onclick = () => dialog.close();
  const question = (questions += 1);
  const isAsked = () => dialog.open && question === questions;
  /** @type {HTMLFormElement} */ (byId("act-form")).onsubmit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      await act(text.value.trim());
      if (isAsked()) dialog.close();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!isAsked()) {
        toast(error.message);
        return;
      }
      byId("act-problem").textContent = error.message;
      byId("act-problem").hidden = false;
      go.disabled = false;
    }
  };
  dialog.showModal();
}

/** Keeps the place in the address. */
function keepPlace() {
  const position = Math.floor(player.position);
  history.replaceState(null, "", position ? `#t=${position}` : location.pathname);
}

/**
 * Shows what has changed, as the service has it now. Who listens goes on listening.
 *
 * @param {string} told what has happened
 * @param {string} focused a selector of what has the focus then
 */
async function refresh(told, focused) {
  const response = await fetch(location.pathname).catch(() => null);
  if (!response?.ok || response.redirected) {
    keepPlace();
    location.reload();
    return;
  }
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of ["lock", "labelling", "raw"]) {
    const part = fresh.getElementById(id);
    if (part) byId(id).replaceWith(document.adoptNode(part));
  }
  byId("takes-along").textContent = takesAlong;
  offerDefinitions();
  showTimes();
  toast(told);
  dispatchEvent(new Event("recall:changed"));
  // Behind an open dialog nothing is read out. One that closes gives the focus back to a button that is not there any more.
  setTimeout(() => {
    status.textContent = told;
    /** @type {HTMLElement | null} */ (document.querySelector(focused))?.focus();
  });
}

function watchProtection() {
  byId("recording").addEventListener("click", (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button[data-action]");
    if (!button) return;
    const words = WORDS[/** @type {HTMLElement} */ (button).dataset.action ?? ""];
    ask(words, async (reason) => {
      await call(data.path, { method: "POST", body: { operationName: words.operationName, ...(reason && { reason }) } });
      await refresh(words.operationName === "applyNonDelete" ? "Protected" : "No longer protected", "#lock button:enabled");
    });
  });
}

function watchDownloads() {
  for (const each of document.querySelectorAll("[data-download]")) {
    const link = /** @type {HTMLAnchorElement} */ (each);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      ask(WORDS[link.dataset.download || "download"], async () => {
        // A download that fails leaves this page as it is.
        const download = document.createElement("a");
        download.href = link.href;
        download.download = "";
        download.click();
      });
    });
  }
}

/** @param {unknown} error */
function tellLabelProblem(error) {
  if (!(error instanceof ApiError)) throw error;
  const problem = byId("label-problem");
  problem.textContent = error.message;
  problem.hidden = false;
}

function watchLabels() {
  const labels = `${data.path}/labels`;
  const recording = byId("recording");
  recording.addEventListener("click", (event) => {
    const { dataset } = /** @type {HTMLElement} */ (
      /** @type {HTMLElement} */ (event.target).closest("button") ?? event.target
    );
    const path = `${labels}/${encodeURIComponent(dataset.remove ?? dataset.comment ?? "")}`;
    if (dataset.remove !== undefined) {
      call(path, { method: "DELETE" }).then(() => refresh("Label removed", "#label-name"), tellLabelProblem);
    } else if (dataset.comment !== undefined) {
      const again = `[data-comment="${CSS.escape(dataset.comment)}"]`;
      const change = async (/** @type {string} */ comment) => {
        await call(path, { method: "PUT", body: { comment } });
        await refresh("Comment saved", again);
      };
      ask({ ...WORDS.comment, title: `Comment on “${dataset.label}”` }, change, dataset.text);
    }
  });
  recording.addEventListener("submit", (event) => {
    if (/** @type {HTMLElement} */ (event.target).id !== "label-form") return;
    event.preventDefault();
    const name = /** @type {HTMLSelectElement} */ (byId("label-name")).value;
    const comment = /** @type {HTMLInputElement} */ (byId("label-comment")).value.trim();
    const body = { name, ...(comment && { comment }) };
    call(labels, { method: "POST", body }).then(() => refresh("Labelled", "#label-name"), tellLabelProblem);
  });
}

async function loadDefinitions() {
  const tell = (/** @type {string} */ problem) => {
    byId("label-problem").textContent = problem;
    byId("label-problem").hidden = !problem;
  };
  try {
    definitions = (await callUntilAnswered("/recording-label-definitions", tell)).labelDefinitions;
    offerDefinitions();
  } catch (error) {
    tellLabelProblem(error);
  }
}

function offerDefinitions() {
  const select = /** @type {HTMLSelectElement} */ (byId("label-name"));
  for (const { name, displayName } of definitions) select.append(new Option(displayName, name));
}

showTimes();
