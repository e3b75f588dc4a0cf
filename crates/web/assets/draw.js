// The things of the picture: cards for machines, bars for subnets, buttons for what a packet can be sent from or to.

import { by, count, el, short } from "./tools.js";

/** Draws everything anew. What had the focus has it again. */
export function draw(picture) {
  const focused = document.activeElement?.dataset?.id;
  const home = new Map();
  for (const cable of picture.cables) if (!home.has(cable.machine)) home.set(cable.machine, cable.subnet);
  const at = (subnet, kind) => picture.machines.filter((machine) => machine.kind === kind && home.get(machine.id) === subnet.id);
  const subnet = (one) => {
    const far = isFar(one);
    const machines = [...at(one, "node"), ...at(one, "outside")].map((machine) => card(picture, machine));
    const prefixes = one.prefixes.filter((prefix) => !one.name.includes(prefix)).join(", ");
    const parts = [
      el("div", { class: "bar", "data-id": one.id }, `Subnet ${one.name} `, el("span", { class: "faint" }, prefixes)),
      machines.length ? el("div", { class: "machines" }, machines) : null,
    ];
    // Routers are between what is far and the nodes, so that a bar is always on their side.
    const section = el("section", { class: `subnet${far ? " far" : ""}`, "aria-label": `Subnet ${one.name}` }, far ? parts.reverse() : parts);
    section.style.setProperty("--machines", Math.max(machines.length, 1));
    return section;
  };
  const isFar = (one) => at(one, "node").length === 0;
  const between = picture.machines.filter((machine) => machine.kind === "router" || machine.kind === "gateway");
  const lost = picture.machines.filter((machine) => !home.has(machine.id));
  const rows = [
    row(picture.subnets.filter(isFar).map(subnet)),
    row(between.map((machine) => card(picture, machine))),
    row(picture.subnets.filter((one) => !isFar(one)).map(subnet)),
    row(lost.map((machine) => card(picture, machine))),
    services(picture),
  ];
  by("things").replaceChildren(...rows.filter((one) => one !== null));
  by("things").querySelectorAll("[data-group]").forEach((group) => {
    [...group.querySelectorAll(".end")].forEach((end, index) => { end.tabIndex = index === 0 ? 0 : -1; });
  });
  if (focused) find(focused)?.focus();
  words(picture);
}

/** The element of a thing. */
export const find = (id) => by("things").querySelector(`[data-id="${CSS.escape(id)}"]`);

function row(children) {
  return children.length ? el("div", { class: "row" }, children) : null;
}

const NOUNS = { node: "node", router: "router", gateway: "NAT gateway", outside: "outside host" };

function card(picture, machine) {
  const cables = picture.cables.filter((cable) => cable.machine === machine.id);
  const pods = picture.pods.filter((pod) => pod.node === machine.id);
  const noun = NOUNS[machine.kind];
  const broken = cables.some((cable) => cable.broken);
  const label = [`${noun} ${machine.name}`, ...machine.addresses, broken ? "a cable is broken" : null].filter(Boolean).join(", ");
  const sends = machine.kind === "node" ? machine.id : machine.kind === "outside" ? machine.addresses[0] : null;
  const name = machine.kind === "node" || machine.name === noun ? machine.name : `${noun} ${machine.name}`;
  return el("div", { class: `machine ${machine.kind}${broken ? " has-broken" : ""}`, "data-group": "", role: "group", "aria-label": label },
    el("ul", { class: "cables", "aria-label": "Cables" }, cables.map((cable) => {
      const state = cable.broken ? `BROKEN: ${cable.broken}` : "up";
      return el("li", { class: cable.broken ? "broken" : "up", "data-id": cable.id, "data-state": cable.broken ? "broken" : "up" },
        `${cable.link} ${state}`);
    })),
    sends
      ? end(machine.id, sends, name, label)
      : el("strong", { "data-id": machine.id, title: machine.addresses.join("\n") }, name),
    pods.length ? el("div", { class: "chips" }, pods.map((pod) => {
      const where = pod.hostNetwork ? `has the network of ${machine.name}` : `on ${machine.name}`;
      return end(pod.id, pod.id, short(pod.name), [`pod ${pod.name}`, ...pod.addresses, where].join(", "));
    })) : null);
}

function services(picture) {
  if (!picture.services.length) return null;
  return el("section", { "aria-label": "Services" },
    el("div", { class: "bar" }, "Services"),
    el("div", { class: "chips wide", "data-group": "", role: "group", "aria-label": "Services" }, picture.services.map((service) => {
      const ready = service.endpoints.length + service.elsewhere;
      const ports = service.ports.map((port) => `${port.port}/${port.protocol}`);
      const label = [`service ${service.name}`, ...service.addresses, ...ports, count(ready, "endpoint")].join(", ");
      // With several ports one must be named; somebody can write another.
      const port = service.ports.length > 1 ? `:${service.ports[0].port}` : "";
      return end(service.id, service.id + port, `${short(service.name)} ${ports[0] ?? ""}`, label);
    })));
}

function end(id, sends, text, label) {
  return el("button", { type: "button", class: "end", "data-id": id, "data-end": sends, "aria-pressed": "false", "aria-label": label, title: label.replaceAll(", ", "\n") }, text);
}

/** What is said of the whole, and what can be chosen in the form. */
function words(picture) {
  const nodes = picture.machines.filter((machine) => machine.kind === "node");
  const broken = picture.cables.filter((cable) => cable.broken);
  by("title").textContent = picture.title;
  document.title = `${broken.length ? "(broken) " : ""}Cambric ${picture.title}`;
  by("summary").replaceChildren(
    [count(nodes.length, "node"), count(picture.pods.length, "pod"), count(picture.services.length, "service")].join(", "),
    broken.length ? el("span", { class: "bad" }, `, ${count(broken.length, "cable")} broken`) : "",
    picture.assumed ? ` (${picture.assumed})` : "");
  const via = by("via").value;
  by("via").replaceChildren(el("option", { value: "" }, "–"), ...nodes.map((node) => el("option", {}, node.name)));
  by("via").value = via;
  const ends = [...by("things").querySelectorAll(".end")];
  by("ends").replaceChildren(...ends.map((one) => el("option", { value: one.dataset.end })));
}
