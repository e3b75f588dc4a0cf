// Making elements, and asking the server.

/** Makes an element. `attributes` whose value is null or false are left out. */
export function el(name, attributes, ...children) {
  const element = document.createElement(name);
  fill(element, attributes, children);
  return element;
}

/** Makes an element of a drawing. */
export function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(element, attributes, children);
  return element;
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter(there));
}

const there = (child) => child !== null && child !== undefined;

/** Puts something in the place of what an element has. */
export function put(id, ...children) {
  by(id).replaceChildren(...children.flat().filter(there));
}

/** The element of an id. */
export const by = (id) => document.getElementById(id);

/** "1 pod", "2 pods". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Of namespace/name the name, and the namespace only if it is not the usual one. */
export const short = (name) => name.replace(/^default\//, "");

// The token is the address's fragment, which browsers send to nobody; a reload finds it where only this page can look.
const KEY = "cambric-token";
if (location.hash.length > 1) {
  sessionStorage.setItem(KEY, location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}

const versions = new Map();

/**
 * Asks the server. Gives null if the answer is the same as the last one of this path. Throws an Error whose message is
 * for the reader.
 */
export async function ask(path, { anew = false } = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (!anew && versions.has(path)) headers["if-none-match"] = versions.get(path);
  let response;
  try {
    response = await fetch(path, { headers, cache: "no-store" });
  } catch {
    throw new Error("Nobody answers: what serves this page has ended, or cannot be reached.");
  }
  if (response.status === 304) return null;
  if (response.status === 401) {
    throw new Error("The token is missing or is another's; open the whole address that was printed when the page began to be served.");
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.problem);
  const version = response.headers.get("etag");
  if (version) versions.set(path, version);
  return body;
}
