// The same operation on several recordings, or on all that match: one call, and who failed is told by name.

import { call, pause } from "./api.js";

const LOOK_MILLISECONDS = 1000;

/**
 * @typedef {{id: string, message: string}} Failure
 * @typedef {{state: string, matched: number, succeeded: number, failed: number, statusMessage?: string,
 *   failures: {id: string, statusMessage: string}[]}} Operation
 */

/**
 * Does an operation on these recordings.
 *
 * @param {string[]} ids up to 1,000
 * @param {object} body such as `{operationName: "applyNonDelete", reason: "…"}`
 * @returns {Promise<{succeeded: string[], failed: Failure[]}>}
 * @throws {import("./api.js").ApiError}
 */
export async function operate(ids, body) {
  const answer = await call("/recording-operations", { method: "POST", body: { ...body, recordings: ids } });
  /** @type {Failure[]} */ const failed = (answer.failed ?? []).map(named);
  const names = new Set(failed.map(({ id }) => id));
  return { succeeded: ids.filter((id) => !names.has(id)), failed };
}

/**
 * Begins an operation on all recordings that match; it goes on by itself.
 *
 * @param {object} criteria as in the query
 * @param {object} body
 * @returns {Promise<string>} the operation's path below /ui/api
 * @throws {import("./api.js").ApiError}
 */
export async function operateOnAll(criteria, body) {
  const { id } = await call("/recording-operations", { method: "POST", body: { ...body, criteria } });
  return `/recording-operations/${id}`;
}

/**
 * Follows an operation to its end. A look that fails is made again.
 *
 * @param {string} path
 * @param {(operation: Operation) => void} show called after each look
 * @param {AbortSignal} signal ends the following, not the operation
 * @returns {Promise<Operation | null>} null if the following was ended
 */
export async function follow(path, show, signal) {
  while (!signal.aborted) {
    try {
      const { operation } = await call(path, { isActivity: false });
      if (signal.aborted) return null;
      show(operation);
      if (operation.state !== "running") return operation;
    } catch (error) {
      // 404 and 401 do not become better.
      const { status } = /** @type {import("./api.js").ApiError} */ (error);
      if (status > 0 && status < 500 && status !== 429) throw error;
    }
    await pause(LOOK_MILLISECONDS);
  }
  return null;
}

/**
 * @param {string} path
 * @throws {import("./api.js").ApiError}
 */
export async function cancel(path) {
  await call(path, { method: "DELETE" });
}

/**
 * @param {{id: string, statusMessage: string}} failure
 * @returns {Failure}
 */
export function named({ id, statusMessage }) {
  return { id, message: statusMessage };
}
