// The API as the page reaches it: the readers' paths of /api/v2 under /ui/api, with the session's cookie.

import { noteActivity, signInAgain } from "./session.js";

/** An answer other than success; `message` is the API's own sentence. */
export class ApiError extends Error {
  /**
   * @param {number} status the HTTP status, 0 without an answer
   * @param {number} code the `statusCode`
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether it may be otherwise in a while. */
  get passes() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }

  /** What is told while the page tries again by itself. */
  get inTheMeantime() {
    return `${this.message.replace(" - please try again.", ".")} Trying again …`;
  }
}

/** @param {number} ms */
export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waiting times in ms, each longer than the one before. */
export function* waits(first = 1000, longest = 30_000) {
  for (let wait = first; ; wait = Math.min(wait * 1.5, longest)) yield wait;
}

/**
 * Calls the API until it answers, as often as what is wrong may pass.
 *
 * @param {string} path
 * @param {(problem: string) => void} tell gets why there is no answer yet, and "" in the end
 * @param {boolean} [isActivity] false if no user has caused it
 * @returns {Promise<any>} the envelope
 * @throws {ApiError} of what does not pass
 */
export async function callUntilAnswered(path, tell, isActivity = true) {
  for (const wait of waits()) {
    try {
      const answer = await call(path, { isActivity });
      tell("");
      return answer;
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passes) throw error;
      tell(error.inTheMeantime);
    }
    isActivity = false; // what is tried again by itself does not prolong the session
    await pause(wait);
  }
}

/**
 * Calls the API. Without a session it leads to the sign-in, and back here.
 *
 * @param {string} path below /ui/api, such as `/recordings/ID`, with its segments encoded
 * @param {{method?: string, body?: object, signal?: AbortSignal, isActivity?: boolean}} [options] `body` becomes JSON.
 *   A request that no user has caused is no activity, and does not prolong the session.
 * @returns {Promise<any>} the envelope
 * @throws {ApiError}
 */
export async function call(path, { method = "GET", body, signal, isActivity = true } = {}) {
  let response;
  /** @type {Record<string, string>} */ const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (!isActivity) headers["Recall-Activity"] = "none";
  try {
    response = await fetch(`/ui/api${path}`, {
      method,
      signal,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 0, "The service cannot be reached at the moment.");
  }
  if (response.status === 401) {
    signInAgain();
    throw new ApiError(401, 20, "You are not signed in any more.");
  }
  const envelope = await response.json().catch(() => ({ statusCode: 4, statusMessage: "The answer cannot be read." }));
  if (!response.ok) throw new ApiError(response.status, envelope.statusCode, envelope.statusMessage);
  if (isActivity) noteActivity();
  return envelope;
}
