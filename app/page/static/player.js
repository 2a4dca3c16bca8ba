// Media elements that follow one wall clock: the seconds of the recording.

const STEP_MS = 50;
// An element this far from the clock is put right, in seconds.
const APART = 0.3;

/**
 * @typedef {{element: HTMLMediaElement, start: number, duration: number, state: "good" | "waiting" | "failed"}} Track
 *   `start` and `duration` in seconds of the recording. The duration is Infinity until it is known. One that waits is
 *   tried again, and the clock stands until then.
 */

/**
 * Plays tracks in step. `change` events tell of everything that is shown, `failed` of a track that is waiting now,
 * `longer` of a track that ends after the recording.
 */
export class Player extends EventTarget {
  /** @param {number} seconds the length of the recording */
  constructor(seconds) {
    super();
    this.seconds = seconds;
    this.position = 0;
    this.playing = false;
    this.speed = 1;
    this.volume = 1;
    this.muted = false;
    this.balance = 0;
    /** @type {[number, number][]} */ this.skipped = [];
    this.skips = false;
    /** @type {number | null} */ this.loopStart = null;
    /** @type {number | null} */ this.loopEnd = null;
    /** @type {Track[]} */ this.tracks = [];
    this.last = 0;
    /** @type {number | undefined} */ this.timer = undefined;
  }

  /**
   * @param {HTMLMediaElement} element with its source, and `preload="none"`
   * @param {number} start
   * @param {number} duration as the recorder says; 0 or less tells nothing
   */
  add(element, start, duration) {
    /** @type {Track} */ const track = { element, start, duration: duration > 0 ? duration : Infinity, state: "good" };
    element.preservesPitch = true;
    element.addEventListener("error", () => {
      track.state = "waiting";
      this.dispatchEvent(new CustomEvent("failed", { detail: track }));
    });
    // Recorders round; what was recorded counts.
    element.addEventListener("durationchange", () => {
      if (Number.isFinite(element.duration)) this.learn(track, element.duration);
    });
    this.tracks.push(track);
    this.apply();
  }

  /**
   * Takes what is known of a file: its sound is heard to the end, also beyond the recorder's stop time.
   *
   * @param {Track} track
   * @param {number} duration
   */
  learn(track, duration) {
    track.duration = duration;
    if (track.start + duration < this.seconds + 0.5) return;
    this.seconds = track.start + duration;
    this.dispatchEvent(new Event("longer"));
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.playing) return;
    if (this.position >= this.seconds - 0.05) this.seek(this.loopStart ?? 0);
    this.playing = true;
    this.context?.resume();
    this.last = performance.now();
    this.timer = setInterval(() => this.step(), STEP_MS);
    this.step();
    this.changed();
  }

  pause() {
    this.playing = false;
    clearInterval(this.timer);
    for (const { element } of this.tracks) element.pause();
    this.changed();
  }

  /** @param {number} position */
  seek(position) {
    this.position = Math.min(Math.max(position, 0), this.seconds);
    this.last = performance.now();
    for (const track of this.tracks) if (this.isIn(track) && track.element.readyState) this.align(track, 0.01);
    if (this.playing) this.step();
    this.changed();
  }

  /** Brings speed, volume and balance to every element. */
  apply() {
    for (const { element } of this.tracks) {
      element.playbackRate = this.speed;
      element.volume = this.volume;
      if (element instanceof HTMLAudioElement) element.muted = this.muted;
    }
    if (this.balance && !this.gains) this.route();
    for (const [left, right] of this.gains ?? []) {
      left.gain.value = Math.min(1, 1 - this.balance);
      right.gain.value = Math.min(1, 1 + this.balance);
    }
    this.changed();
  }

  /** Leads sound through two gains; only when somebody wants another balance, because it is one more thing to fail. */
  route() {
    const context = (this.context = new AudioContext());
    /** @type {[GainNode, GainNode][]} */ this.gains = [];
    for (const { element } of this.tracks.filter((track) => track.element instanceof HTMLAudioElement)) {
      const source = context.createMediaElementSource(element);
      // Mono is on both sides.
      const both = new GainNode(context, { channelCount: 2, channelCountMode: "explicit" });
      const splitter = new ChannelSplitterNode(context, { numberOfOutputs: 2 });
      const merger = new ChannelMergerNode(context, { numberOfInputs: 2 });
      const gains = /** @type {[GainNode, GainNode]} */ ([new GainNode(context), new GainNode(context)]);
      source.connect(both).connect(splitter);
      gains.forEach((gain, side) => {
        splitter.connect(gain, side);
        gain.connect(merger, 0, side);
      });
      merger.connect(context.destination);
      this.gains.push(gains);
    }
  }

  /** @param {Track} track that waits: it is fetched anew */
  retry(track) {
    track.state = "good";
    track.element.load();
    this.apply(); // a new source begins with the usual speed
  }

  /** @param {Track} track that cannot be played */
  giveUp(track) {
    track.state = "failed";
    this.changed();
  }

  /** @param {Track} track */
  isIn(track) {
    return track.state === "good" && this.covers(track);
  }

  /** @param {Track} track */
  covers(track) {
    return this.position >= track.start && this.position < track.start + track.duration;
  }

  /** Whether a sound is away for a while, which nobody wants to miss. */
  get stands() {
    return this.tracks.some(
      (track) => track.state === "waiting" && track.element instanceof HTMLAudioElement && this.covers(track),
    );
  }

  /**
   * @param {Track} track
   * @param {number} apart
   */
  align({ element, start }, apart) {
    const wanted = Math.max(this.position - start, 0);
    if (Math.abs(element.currentTime - wanted) > apart) element.currentTime = wanted;
  }

  step() {
    const now = performance.now();
    const passed = ((now - this.last) / 1000) * this.speed;
    this.last = now;
    if (this.stands) {
      for (const { element } of this.tracks) element.pause();
      this.changed();
      return;
    }
    const audible = this.tracks.find((track) => this.isIn(track) && track.element instanceof HTMLAudioElement);
    const master = audible ?? this.tracks.find((track) => this.isIn(track));
    if (!master) this.position += passed;
    else if (!master.element.paused && !master.element.seeking && master.element.readyState >= 2) {
      this.position = master.element.ended
        ? Math.max(this.position + passed, master.start + master.element.currentTime)
        : master.start + master.element.currentTime;
      if (master.element.ended) master.duration = Math.min(master.duration, master.element.currentTime);
    } else if (master.element.ended) {
      master.duration = Math.min(master.duration, master.element.currentTime);
      this.position += passed;
    }
    this.jump();
    if (this.position >= this.seconds && !this.tracks.some((track) => track.duration === Infinity && this.isIn(track))) {
      this.position = this.seconds;
      this.pause();
      return;
    }
    for (const track of this.tracks) {
      const { element } = track;
      if (!this.isIn(track)) element.pause();
      else if (element.paused) {
        this.align(track, 0.01);
        void element.play().catch(() => {}); // "error" tells of it
      } else if (track !== master && !element.seeking) this.align(track, APART);
    }
    this.changed();
  }

  /** Goes on behind what is skipped, and back at the end of a loop. */
  jump() {
    const { position, loopStart, loopEnd } = this;
    let wanted = position;
    if (this.skips) {
      const found = this.skipped.find(([start, end]) => position >= start && position < end - 0.1);
      if (found) {
        wanted = found[1];
        this.dispatchEvent(new CustomEvent("skipped", { detail: found[1] - position }));
      }
    }
    if (loopStart !== null && loopEnd !== null && wanted >= loopEnd) wanted = loopStart;
    if (wanted === position) return;
    this.position = Math.min(wanted, this.seconds);
    for (const track of this.tracks) if (this.isIn(track)) this.align(track, 0.01);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
