// The lines of the picture: cables, the way of a traced packet, and what is behind a service.

import { by, svg } from "./tools.js";
import { find } from "./draw.js";

/**
 * Draws all lines anew. `ways` are those of a trace, if there is one; else `flows` are drawn, and move if
 * packets do. `service` is one that is looked at.
 */
export function lines(picture, ways, flows, service) {
  const sheet = by("lines");
  const origin = sheet.getBoundingClientRect();
  const box = (id, around) => {
    const thing = find(id);
    const rect = (around ? thing?.closest(around) : thing)?.getBoundingClientRect();
    return rect && { left: rect.left - origin.left, right: rect.right - origin.left, top: rect.top - origin.top, bottom: rect.bottom - origin.top };
  };
  const all = picture.cables.map((cable) => cableLine(cable, box)).filter(Boolean);
  if (service) all.push(...behind(service, box));
  for (const way of ways ?? []) all.push(...wayLines(picture, way, box));
  if (!ways) all.push(...flowLines(picture, flows, box));
  sheet.replaceChildren(...all);
}

const middle = (one) => ({ x: (one.left + one.right) / 2, y: (one.top + one.bottom) / 2 });

/** Where a cable leaves its machine, and where it comes to its subnet. */
function cableEnds(cable, box) {
  const [near, card, bar] = [box(cable.id), box(cable.machine, ".machine"), box(cable.subnet)];
  if (!near || !card || !bar) return null;
  const x = near.left + 10;
  const above = bar.bottom <= card.top;
  const from = { x, y: above ? card.top : card.bottom };
  const to = { x: Math.min(Math.max(x, bar.left + 4), bar.right - 4), y: above ? bar.bottom : bar.top };
  return { from, to };
}

function cableLine(cable, box) {
  const ends = cableEnds(cable, box);
  if (!ends) return null;
  const state = cable.broken ? "broken" : "up";
  return svg("line", { class: `cable ${state}`, "data-cable": cable.id, "data-state": state,
    x1: ends.from.x, y1: ends.from.y, x2: ends.to.x, y2: ends.to.y });
}

function behind(service, box) {
  const from = box(service.id);
  return service.endpoints.map((id) => box(id)).filter((to) => from && to).map((to) => {
    const [a, b] = [middle(from), middle(to)];
    return svg("line", { class: "behind", x1: a.x, y1: from.top, x2: b.x, y2: b.y });
  });
}

/** The points of a way: along each cable, and from the middle of whatever has none on that side. */
function wayPoints(picture, way, box) {
  const cables = new Map(picture.cables.map((cable) => [cable.id, cable]));
  const last = way.there.length - 1;
  return way.there.flatMap((id, index) => {
    const [before, after] = [way.there[index - 1], way.there[index + 1]];
    const cable = cables.get(id);
    if (cable) {
      const ends = cableEnds(cable, box);
      if (!ends) return [];
      const [from, to] = before === cable.machine ? [ends.from, ends.to] : [ends.to, ends.from];
      return [from, { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2, cable: id }, to];
    }
    const passed = index > 0 && index < last && (cables.has(before) || cables.has(after));
    const place = passed ? null : box(id);
    return place ? [middle(place)] : [];
  });
}

const path = (points) => points.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");

/** A dot that goes along a path again and again; nothing for those who want nothing to move. */
function moving(path, name) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return [];
  const motion = svg("animateMotion", { path, dur: "2.5s", repeatCount: "indefinite" });
  return [svg("circle", { r: name ? 3.5 : 5, class: name }, motion)];
}

/** How many different ways of flows are drawn: more would be a blot. */
const FLOWS_DRAWN = 60;

function flowLines(picture, flows, box) {
  const ways = new Map();
  for (const { there, moves } of flows) {
    const key = there.join(" ");
    ways.set(key, { there, moves: moves || ways.get(key)?.moves });
  }
  return [...ways.values()].slice(0, FLOWS_DRAWN).flatMap(({ there, moves }) => {
    const d = path(wayPoints(picture, { there }, box));
    return [svg("path", { class: "flow", d }), ...(moves ? moving(d, "packet") : [])];
  });
}

/** A way up to where it breaks, what would be beyond, a cross at the break, and a packet that goes as far as it can. */
function wayLines(picture, way, box) {
  const points = wayPoints(picture, way, box);
  const cut = points.findIndex((point) => way.broken.some((one) => one.cable === point.cable));
  const sure = path(cut < 0 ? points : points.slice(0, cut + 1));
  const drawn = [svg("path", { class: "way", d: sure })];
  if (cut >= 0) {
    const { x, y } = points[cut];
    drawn.push(svg("path", { class: "way unsure", d: path(points.slice(cut)) }));
    drawn.push(svg("path", { class: "cross", d: `M${x - 7} ${y - 7}l14 14m0 -14l-14 14` }));
  }
  return [...drawn, ...moving(sure)];
}
