// The live page: what is asked for when, and what clicks and keys do.

import { ask, by } from "./tools.js";
import { draw } from "./draw.js";
import { lines } from "./lines.js";
import { showFailure, showFindings, showFlows, showSessions, showTrace } from "./panels.js";

const SECOND = 1000;

let picture = null;
let traced = null;
let flows = [];
/** How many packets there were in each flow at the last look. */
let packets = new Map();
/** The service that is looked at. */
let service = null;

const redraw = () => picture && lines(picture, traced?.ways, flows, service);

function problem(error) {
  by("problem").hidden = !error;
  by("problem").textContent = error?.message ?? "";
}

const say = (text) => { by("said").textContent = text; };

// What is shown is asked for again and again, while somebody looks.

async function keep(path, period, show, failed, how) {
  if (!document.hidden) {
    try {
      const news = await ask(path, how);
      if (news !== null) await show(news);
      failed(null);
    } catch (error) {
      failed(error);
    }
  }
  setTimeout(keep, period, path, period, show, failed, how);
}

async function showPicture(news) {
  picture = news;
  draw(picture);
  mark();
  redraw();
  document.documentElement.dataset.ready ??= performance.now().toFixed(0);
  if (traced) await trace();
}

/** A flow moves if packets have gone through it since the last look, or it was not there. */
function showNewFlows(news) {
  const before = packets;
  packets = new Map();
  for (const one of news.flows) {
    const { node, id, traffic } = one.flow;
    const sum = traffic ? traffic.sentPackets + traffic.receivedPackets : 0;
    packets.set(`${node} ${id}`, sum);
    one.moves = sum !== before.get(`${node} ${id}`);
  }
  flows = news.flows;
  showFlows(news);
  redraw();
}

// The two ends.

const fields = () => [by("from"), by("to")];

/** Shows which ends are chosen, what the way comes through, and what is behind the service that is looked at. */
function mark() {
  const chosen = fields().map((field) => field.value.trim());
  const on = new Set(traced?.ways.flatMap((way) => way.there));
  for (const one of by("things").querySelectorAll(".end")) {
    one.setAttribute("aria-pressed", chosen.includes(one.dataset.end));
    one.classList.toggle("way", on.has(one.dataset.id));
    one.classList.toggle("behind", service?.endpoints.includes(one.dataset.id) ?? false);
  }
}

async function choose(end) {
  const [from, to] = fields();
  if (!from.value || to.value) {
    clear();
    from.value = end.dataset.end;
    mark();
    return say(`From ${end.dataset.end}. Choose where to.`);
  }
  to.value = end.dataset.end;
  await trace();
}

async function trace() {
  const question = new URLSearchParams(new FormData(by("ask")));
  try {
    traced = await ask(`/api/trace?${question}`, { anew: true });
    say(showTrace(traced));
  } catch (error) {
    traced = null;
    by("answer").hidden = true;
    say(error.message);
  }
  mark();
  redraw();
}

function clear() {
  fields().forEach((field) => { field.value = ""; });
  traced = null;
  by("answer").hidden = true;
  say("Choose two ends.");
  mark();
  redraw();
}

by("things").addEventListener("click", ({ target }) => {
  const end = target.closest(".end");
  if (end) choose(end);
});

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  trace();
});

by("clear").addEventListener("click", clear);

// The keyboard: Tab goes from group to group, arrows go within one.

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function step(key, ends, at) {
  if (key === "Home") return 0;
  if (key === "End") return ends.length - 1;
  return STEPS[key] && Math.min(Math.max(at + STEPS[key], 0), ends.length - 1);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return clear();
  const end = event.target.closest?.(".end");
  if (!end || event.ctrlKey || event.altKey || event.metaKey) return;
  const ends = [...end.closest("[data-group]").querySelectorAll(".end")];
  const next = ends[step(event.key, ends, ends.indexOf(end))];
  if (!next) return;
  event.preventDefault();
  ends.forEach((one) => { one.tabIndex = one === next ? 0 : -1; });
  next.focus();
});

/** A service that has the focus, or the pointer on it, shows its endpoints. */
function look({ target }) {
  const id = target.closest?.(".end")?.dataset.id;
  const next = picture?.services.find((one) => one.id === id) ?? null;
  if (next === service) return;
  service = next;
  mark();
  redraw();
}
by("things").addEventListener("focusin", look);
by("things").addEventListener("pointerover", look);

new ResizeObserver(redraw).observe(by("things"));

keep("/api/picture", 2 * SECOND, showPicture, problem);
// That nothing has changed is news, too: nothing moves.
keep("/api/flows", 2 * SECOND, showNewFlows, (error) => error && showFailure("flows-body", error), { anew: true });
keep("/api/findings", 30 * SECOND, showFindings, (error) => error && showFailure("findings-body", error));
keep("/api/bgp", 5 * SECOND, showSessions, (error) => error && showFailure("bgp-body", error));
