// A waveform: the channels apart, and paused periods hatched.

// Of 255: quieter is silence, if it lasts.
const SILENT = 3;
const SILENT_SECONDS = 2;

/**
 * @typedef {{from: number, to: number, duration: number, channels: number[][]}} Peaks
 * @typedef {{start: number, duration: number, path: string, masks: [number, number][], encrypted: boolean}} Media
 */

export class Wave {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Media} media
   * @param {number} seconds the length of the recording
   */
  constructor(canvas, media, seconds) {
    this.canvas = canvas;
    this.media = media;
    this.start = 0;
    this.end = seconds;
    /** @type {Peaks | null} */ this.peaks = null;
    /** @type {Peaks | null} */ this.finer = null;
    this.draw();
  }

  /** @param {Peaks} peaks of the whole file */
  show(peaks) {
    this.peaks = peaks;
    this.canvas.classList.toggle("two", peaks.channels.length > 1);
    this.draw();
  }

  /** @param {Peaks} peaks of a part */
  refine(peaks) {
    this.finer = peaks;
    this.draw();
  }

  /**
   * @param {number} start of what is shown, in seconds of the recording
   * @param {number} end
   */
  look(start, end) {
    this.start = start;
    this.end = end;
    this.finer = null;
    this.draw();
  }

  /** @returns {[number, number][]} when nothing is heard, in seconds of the recording */
  silences() {
    /** @type {[number, number][]} */ const found = [];
    const peaks = this.peaks;
    if (!peaks?.channels.length) return found;
    const points = peaks.channels[0].length;
    const each = (peaks.to - peaks.from) / (points || 1);
    let began = -1;
    for (let i = 0; i <= points; i += 1) {
      const silent = i < points && peaks.channels.every((channel) => channel[i] < SILENT);
      if (silent && began < 0) began = i;
      else if (!silent && began >= 0) {
        if ((i - began) * each >= SILENT_SECONDS) {
          found.push([this.media.start + began * each, this.media.start + i * each]);
        }
        began = -1;
      }
    }
    return found;
  }

  draw() {
    const { canvas, media } = this;
    const box = canvas.getBoundingClientRect();
    const scale = devicePixelRatio || 1;
    const width = Math.round(box.width * scale);
    const height = Math.round(box.height * scale);
    if (!width || !height) return;
    canvas.width = width;
    canvas.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const style = getComputedStyle(canvas);
    const x = (/** @type {number} */ second) => ((second - this.start) / (this.end - this.start || 1)) * width;
    const left = x(media.start);
    const right = x(media.start + (this.peaks?.duration ?? media.duration));
    context.fillStyle = style.getPropertyValue("--wave-ground");
    context.fillRect(left, 0, right - left, height);
    const channels = this.peaks?.channels ?? [[]];
    const all = channels.flat();
    // Quiet sound is shown larger, but not noise as if it were speech.
    const loudest = Math.max(all.reduce((one, other) => Math.max(one, other), 0), 40);
    channels.forEach((_, i) => {
      const tall = height / channels.length;
      const middle = tall * (i + 0.5);
      context.fillStyle = style.getPropertyValue(i % 2 ? "--wave-other" : "--wave");
      if (!this.peaks) {
        context.fillRect(left, middle - scale, right - left, 2 * scale);
        return;
      }
      for (let pixel = Math.max(0, Math.floor(left)); pixel < Math.min(width, right); pixel += 1) {
        const second = this.start + (pixel / width) * (this.end - this.start) - media.start;
        const next = second + (this.end - this.start) / width;
        const half = (this.loudness(i, second, next) / loudest) * (tall / 2 - scale);
        context.fillRect(pixel, middle - Math.max(half, scale / 2), 1, Math.max(2 * half, scale));
      }
    });
    for (const [start, end] of media.masks) hatch(context, x(start), x(end), height, scale, style.getPropertyValue("--wave-mask"));
  }

  /**
   * @param {number} channel
   * @param {number} from in seconds of the file
   * @param {number} to
   */
  loudness(channel, from, to) {
    const fine = this.finer && from >= this.finer.from && to <= this.finer.to ? this.finer : this.peaks;
    const points = fine?.channels[channel];
    if (!fine || !points?.length) return 0;
    const each = (fine.to - fine.from) / points.length || 1;
    const first = Math.floor((from - fine.from) / each);
    const last = Math.max(first + 1, Math.ceil((to - fine.from) / each));
    let most = 0;
    for (let i = Math.max(first, 0); i < Math.min(last, points.length); i += 1) most = Math.max(most, points[i]);
    return most;
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} left
 * @param {number} right
 * @param {number} height
 * @param {number} scale
 * @param {string} colour
 */
function hatch(context, left, right, height, scale, colour) {
  context.save();
  context.beginPath();
  context.rect(left, 0, Math.max(right - left, 2 * scale), height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1.5 * scale;
  context.beginPath();
  const last = Math.min(right, context.canvas.width) + height;
  for (let at = Math.max(left, -height) - height; at < last; at += 6 * scale) {
    context.moveTo(at, height);
    context.lineTo(at + height, 0);
  }
  context.stroke();
  context.restore();
}
