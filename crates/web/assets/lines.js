// The lines of the picture: cables, the way of a traced packet, and what is behind a service.

import { by, svg } from "./tools.js";
import { find } from "./draw.js";

/** Draws all lines anew. `ways` are those of a trace, if there is one; `service` is one that is looked at. */
export function lines(picture, ways, service) {
  const sheet = by("lines");
  const origin = sheet.getBoundingClientRect();
  const box = (id, around) => {
    const thing = find(id);
    const rect = (around ? thing?.closest(around) : thing)?.getBoundingClientRect();
    return rect && { left: rect.left - origin.left, right: rect.right - origin.left, top: rect.top - origin.top, bottom: rect.bottom - origin.top };
  };
  const all = picture.cables.map((cable) => cableLine(cable, box)).filter(Boolean);
  if (service) all.push(...behind(service, box));
  for (const way of ways ?? []) all.push(...wayLines(way, box));
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

/** A way up to where it breaks, what would be beyond, a cross at the break, and a packet that goes as far as it can. */
function wayLines(way, box) {
  const stops = [];
  way.there.forEach((id) => {
    const place = box(id);
    if (!place) return;
    // A bar is wide: the packet goes along it from where it came.
    const at = id.startsWith("subnet/") ? null : middle(place);
    stops.push({ id, place, at });
  });
  const points = [];
  stops.forEach((stop, index) => {
    if (stop.at) return points.push({ ...stop.at, id: stop.id });
    const y = (stop.place.top + stop.place.bottom) / 2;
    for (const beside of [stops[index - 1], stops[index + 1]]) {
      const x = Math.min(Math.max(beside?.at?.x ?? stop.place.left, stop.place.left), stop.place.right);
      points.push({ x, y, id: stop.id });
    }
  });
  const cut = way.broken.length ? points.findIndex((point) => way.broken.some((one) => one.cable === point.id)) : -1;
  const path = (some) => some.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");
  const sure = path(cut < 0 ? points : points.slice(0, cut + 1));
  const drawn = [svg("path", { class: "way", d: sure })];
  if (cut >= 0) {
    const { x, y } = points[cut];
    drawn.push(svg("path", { class: "way unsure", d: path(points.slice(cut)) }));
    drawn.push(svg("path", { class: "cross", d: `M${x - 7} ${y - 7}l14 14m0 -14l-14 14` }));
  }
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    const motion = svg("animateMotion", { path: sure, dur: "2.5s", repeatCount: "indefinite" });
    drawn.push(svg("circle", { r: 5 }, motion));
  }
  return drawn;
}
