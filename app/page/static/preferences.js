// What a person has chosen, kept in this browser. Storage may be switched off; then it lasts as long as the page.

/** @type {Map<string, string>} */
const unkept = new Map();

/**
 * @param {string} name
 * @param {string} otherwise
 * @returns {string}
 */
export function preference(name, otherwise) {
  try {
    return localStorage.getItem(`recall.${name}`) ?? unkept.get(name) ?? otherwise;
  } catch {
    return unkept.get(name) ?? otherwise;
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
export function prefer(name, value) {
  unkept.set(name, value);
  try {
    localStorage.setItem(`recall.${name}`, value);
  } catch {
    // It lasts as long as the page.
  }
}
