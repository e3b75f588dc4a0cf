// What is said in words: a trace, the doctor's findings, the BGP sessions.

import { by, count, el, put } from "./tools.js";

/** Shows a trace; says in a sentence how it went. */
export function showTrace({ journey, ways }) {
  const broken = new Map(ways.flatMap((way) => way.broken).map((one) => [one.cable, one.why]));
  const [from, to] = [journey.source, journey.destination].map((end) => `${end.kind} ${end.name}`);
  const lost = journey.ways.map((way) => way.lost).find((one) => one);
  const verdict = broken.size ? `broken: ${[...broken.values()].join("; ")}`
    : lost ? `lost at ${lost.node}: ${lost.why}`
    : "delivered, and so is the answer";
  const sentence = `From ${from} to ${to} by ${journey.protocol} over ${journey.family}: ${verdict}`;
  const state = broken.size ? "broken" : journey.delivered ? "delivered" : "lost";
  put("answer-body",
    el("p", { class: state === "delivered" ? "good" : "bad", "data-verdict": state }, sentence),
    broken.size ? el("p", {}, "The ways below are what the plans say; no packet passes a broken cable.") : null,
    journey.assumed ? el("p", { class: "faint" }, journey.assumed) : null,
    ...journey.ways.map((way) => route(way, journey.ways.length)));
  by("answer").hidden = false;
  return sentence;
}

function route(way, of) {
  const name = way.end ? `${way.end.kind} ${way.end.name}` : "nobody";
  const title = of > 1 ? `To ${name}, one in ${count(way.oneIn, "connection")}` : `To ${name}`;
  const list = (label, hops) => hops.length
    ? [el("h3", {}, label), el("ol", { class: "hops" }, hops.map(hop))] : [];
  // Many ways are one like another: one is open.
  return el("details", { open: of === 1 || way.lost ? "" : null },
    el("summary", {}, title, way.lost ? el("span", { class: "bad" }, ` lost at ${way.lost.node}: ${way.lost.why}`) : null),
    list("There", way.there), list("Back", way.back));
}

function hop(one) {
  return el("li", { class: one.action === "lose" ? "bad" : null }, `${one.node}: ${one.text}`,
    one.object ? el("span", { class: "faint" }, ` (${one.object})`) : null);
}

/** How many flows are told. */
const FLOWS_TOLD = 20;

/** Shows what flows. Those that move come first. */
export function showFlows({ all, flows }) {
  const name = (end) => end && `${end.kind} ${end.name}${end.port ? `:${end.port}` : ""}`;
  const told = [...flows].sort((one, other) => other.moves - one.moves).slice(0, FLOWS_TOLD);
  const rows = told.map(({ flow, moves }) => [
    name({ ...flow.client, port: null }),
    flow.service ? `service ${flow.service}` : name(flow.destination),
    name(flow.backend) ?? "",
    `${flow.protocol} over ${flow.family}`, flow.verdict,
    flow.traffic ? `${flow.fastPath ? "at least " : ""}${flow.traffic.sentPackets} sent, ${flow.traffic.receivedPackets} received` : "not counted",
    moves ? "now" : "",
  ]);
  put("flows-body",
    rows.length
      ? table(["From", "To", "Endpoint", "By", "State", "Packets", "Moves"], rows)
      : el("p", { class: "faint" }, "Nothing flows."),
    all > rows.length ? el("p", { class: "faint" }, `${count(all, "flow")} in all; cambric flows shows them.`) : null);
}

/** Shows what the doctor says. */
export function showFindings(verdicts) {
  const findings = verdicts.flatMap((verdict) => verdict.findings.map((finding) => ({ node: verdict.node, ...finding })));
  const unchecked = verdicts.flatMap((verdict) => verdict.unchecked.map((remark) => `${verdict.node}: ${remark.check}: ${remark.text}`));
  put("findings-body",
    findings.length
      ? table(["Node", "Check", "What is so", "Why it hurts", "What mends it"], findings.map((one) =>
        [one.node, el("span", { class: "bad" }, one.check), `${one.place}: ${one.what}`, one.hurts, one.cure]))
      : el("p", { class: "good" }, `Nothing is wrong on ${count(verdicts.length, "node")}.`),
    unchecked.length ? el("details", {}, el("summary", {}, `${count(unchecked.length, "thing")} could not be looked at`),
      el("ul", {}, unchecked.map((text) => el("li", {}, text)))) : null);
}

/** Shows the BGP sessions. */
export function showSessions(nodes) {
  const problems = nodes.flatMap((one) => one.problems.map((problem) => el("p", { class: "bad" }, `${one.node}: ${problem}`)));
  const rows = nodes.flatMap((one) => one.sessions.map((session) => {
    const up = session.state === "Established";
    const prefixes = Object.entries(session.prefixes)
      .map(([family, { received, advertised }]) => `${family}: ${received} received, ${advertised} told`);
    return [one.node, session.name, `${session.address} AS ${session.asn}`,
      el("span", { class: up ? "good" : "bad" }, up ? "up" : `DOWN (${session.state})`),
      new Date(session.since * 1000).toLocaleTimeString(), prefixes.join("; "), session.lastError ?? ""];
  }));
  put("bgp-body", ...problems, rows.length
    ? table(["Node", "Session", "Peer", "State", "Since", "Prefixes", "Last error"], rows)
    : el("p", { class: "faint" }, "No node speaks BGP."));
}

function table(head, rows) {
  return el("table", {},
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell))))));
}

/** Shows that something could not be had. */
export function showFailure(id, error) {
  put(id, el("p", { class: "bad" }, error.message));
}
