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
}

/**
 * Calls the API. Without a session it leads to the sign-in, and back here.
 *
 * @param {string} path below /ui/api, such as `/recordings/ID`, with its segments encoded
 * @param {{method?: string, body?: object, signal?: AbortSignal}} [options] `body` becomes JSON
 * @returns {Promise<any>} the envelope
 * @throws {ApiError}
 */
export async function call(path, { method = "GET", body, signal } = {}) {
  let response;
  try {
    response = await fetch(`/ui/api${path}`, {
      method,
      signal,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
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
  noteActivity();
  return envelope;
}
