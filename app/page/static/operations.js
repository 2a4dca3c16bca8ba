// The same operation on several recordings: a few calls at a time, and who failed is told by name.

import { ApiError, call } from "./api.js";

const AT_ONCE = 4;

/**
 * @typedef {{id: string, path: string}} Target a recording, and its path below /ui/api
 * @typedef {{id: string, message: string}} Failure
 */

/**
 * Posts the same body for each recording.
 *
 * @param {Target[]} targets
 * @param {object} body such as `{operationName: "applyNonDelete", reason: "…"}`
 * @param {(done: number) => void} advance called after each one
 * @param {AbortSignal} signal stops before the next one
 * @returns {Promise<{succeeded: string[], failed: Failure[], left: Target[]}>} `left` were not begun
 */
export async function operate(targets, body, advance, signal) {
  const left = [...targets];
  /** @type {string[]} */ const succeeded = [];
  /** @type {Failure[]} */ const failed = [];
  const work = async () => {
    for (let target = left.shift(); target; target = left.shift()) {
      const { id, path } = target;
      try {
        await call(path, { method: "POST", body });
        succeeded.push(id);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        failed.push({ id, message: error.message });
      }
      advance(succeeded.length + failed.length);
      if (signal.aborted) return;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return { succeeded, failed, left };
}
