// Shows what the agents answer. All that others chose passes `printable`, and is put in as text.
"use strict";

const PERIOD = 2000; // ms between two looks
const TIMEOUT = 10000;
const MOST_ROWS = 500;
const MOST_PORTS = 8;
const MOST_DRAWN = 40; // clients, and pods of a LAN

const $ = (id) => document.getElementById(id);
const shown = {}; // what stands in a place, to leave it alone while it is the same
let token = sessionStorage.getItem("token");
let latest = null; // when data came last
let fault = null; // why none comes
let timer;

// As view::printable does: what a reader cannot see, or what changes how the rest is read, becomes visible.
const printable = (text) =>
  String(text).replace(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (child instanceof Node ? child : printable(child))));
  return element;
}

const name = (text) => make("bdi", { class: "name" }, text);
const address = (text) => make("bdi", { class: "name fixed" }, text);
const host = ({ client_pod: pod, client }) => (pod ? make("span", {}, name(pod), " ", address(client)) : address(client));
const fixed = (text) => make("span", { class: "fixed" }, text);
const rate = (number) => (number >= 10 ? Math.round(number) : Math.round(number * 10) / 10).toLocaleString("en");
const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

const more = (count) => (count > 0 ? `and ${count} more` : "");

function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

// A table with a heading for each column; cells are texts or elements.
function table(title, heading, rows) {
  const head = make("tr", { role: "row" });
  head.append(...heading.map((text) => make("th", { scope: "col", role: "columnheader" }, text)));
  const body = make("tbody", { role: "rowgroup" });
  for (const row of rows.slice(0, MOST_ROWS)) {
    const line = make("tr", { role: "row" });
    row.forEach((cell, index) => line.append(make("td", { role: "cell", "data-label": heading[index] }, make("span", {}, cell))));
    body.append(line);
  }
  const caption = rows.length > MOST_ROWS ? `${title}, the first ${MOST_ROWS} of ${rows.length}` : title;
  return make("table", { role: "table" }, make("caption", {}, caption), make("thead", { role: "rowgroup" }, head), body);
}

// Puts elements where they belong, unless they would say the same: focus and selection stay.
function put(place, data, build) {
  const key = JSON.stringify(data);
  if (shown[place] === key) return;
  shown[place] = key;
  $(place).replaceChildren(...[build(data)].flat());
}

async function get(path) {
  const response = await fetch(path, {
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT),
  });
  if (response.ok) return response.json();
  const error = new Error((await response.text()).trim() || `status ${response.status}`);
  error.status = response.status;
  throw error;
}

// ---- token

function enter(reason) {
  clearTimeout(timer);
  token = latest = fault = null;
  sessionStorage.removeItem("token");
  for (const place of Object.keys(shown)) {
    delete shown[place];
    $(place).replaceChildren();
  }
  $("content").hidden = $("forget").hidden = true;
  $("enter").hidden = false;
  $("rejected").textContent = reason;
  $("state").textContent = "Not connected.";
  $("token").focus();
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) return enter("A token consists of letters, digits and signs.");
  $("token").value = "";
  look();
});

$("forget").addEventListener("click", () => enter(""));

// ---- live data

async function look() {
  clearTimeout(timer);
  try {
    const members = await get("api/members"); // first: a wrong token is one guess
    const seen = await get("api/seen");
    if (!token) return;
    sessionStorage.setItem("token", token);
    latest = Date.now();
    fault = null;
    welcome();
    show(members, seen);
  } catch (error) {
    if (!token) return;
    if (error.status === 401 || (error.status === 429 && !latest)) return enter(error.message);
    if (!latest) return enter(`The agent does not answer: ${error.message}`);
    fault = error.name === "TimeoutError" ? "no answer in 10 s" : error.message;
  }
  tell();
  if (!document.hidden) timer = setTimeout(look, PERIOD);
}

function welcome() {
  if (!$("content").hidden) return;
  $("enter").hidden = true;
  $("content").hidden = $("forget").hidden = false;
  $("pv").focus();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && token && latest) look();
});

function tell() {
  const age = (Date.now() - latest) / 1000;
  const text = fault ? `The data is ${ago(age)} old: ${printable(fault)}` : "Live.";
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").classList.toggle("wrong", fault !== null);
}

function show(members, seen) {
  const notices = [];
  const nodes = new Map([...members.nodes, ...seen.nodes].map((asked) => [asked.node, asked.error]));
  for (const [node, error] of nodes) if (error) notices.push([node, error]);
  put("notices", [notices, seen.lost], ([silent, lost]) => {
    const lines = silent.map(([node, error]) => make("li", {}, name(node), ` did not answer: ${error}`));
    if (lost) lines.push(make("li", {}, `${many(lost, "datagram")} were not looked at, because there were too many: counts are too low.`));
    return lines;
  });
  $("notices").hidden = !$("notices").children.length;
  const asked = `${many([...nodes.values()].filter((error) => !error).length, "node")}`;
  put("members", [members.members, asked], showMembers);
  put("unanswered", seen.unanswered.map((row) => ({ ...row, since: ago(seen.time - row.since) })), showUnanswered);
  put("duplicates", seen.duplicates, showDuplicates);
  const readers = seen.readers.filter((reader) => reader.circuits || reader.pvs.length);
  put("readers", readers, showReaders);
  put("map", [seen.domains.map(({ node, name, uplink, address, problem }) => ({ node, name, uplink, address, problem })),
    seen.pods.map(({ node, domain, pod, address }) => ({ node, domain, pod, address })), readers,
    seen.talkers.filter((talker) => !talker.pod).map(({ domain, host }) => ({ domain, host }))], draw);
}

function showMembers([members, asked]) {
  if (!members.length) return make("p", {}, `No pod has joined on ${asked}.`);
  const port = ({ protocol, external, pod }) => make("div", { class: "fixed" }, `${protocol} ${external} → ${pod}`);
  const ports = (list) => (list.length ? make("div", {}, ...list.slice(0, MOST_PORTS).map(port), more(list.length - MOST_PORTS)) : "–");
  return table(`${many(members.length, "pod")} on ${asked}`,
    ["Pod", "Node", "Domain", "Address", "LAN address", "External ports", "Circuits", "State"],
    members.map((member) => [
      name(`${member.namespace}/${member.pod}`),
      name(member.node),
      name(member.domain),
      member.address ? address(member.address) : "–",
      member.lan_address ? make("span", {}, address(member.lan_address.address), ` ${member.lan_address.standing}`) : "–",
      ports(member.ports),
      String(member.circuits),
      member.problem ? make("span", { class: "wrong" }, member.problem) : make("span", { class: "ok" }, "OK"),
    ]));
}

function why(pv, client, protocol) {
  const button = make("button", { type: "button", class: "plain" }, "Why?");
  button.setAttribute("aria-label", `Why is ${printable(pv)} not seen by ${printable(client)}?`);
  button.addEventListener("click", () => {
    $("pv").value = pv;
    $("from").value = client;
    $("protocol").value = protocol;
    $("ask").requestSubmit();
    $("why-title").scrollIntoView();
  });
  return button;
}

function showUnanswered(rows) {
  if (!rows.length) return make("p", {}, "Every search that was seen had an answer.");
  return table(many(rows.length, "PV"), ["PV", "Client", "Domain", "Protocol", "Asked", "Since", ""],
    rows.map((row) => [
      name(row.pv),
      host(row),
      name(row.domain),
      row.protocol,
      fixed(many(row.asked, "time")),
      fixed(row.since),
      why(row.pv, row.client_pod ? "" : row.client, row.protocol),
    ]));
}

function showDuplicates(rows) {
  if (!rows.length) return make("p", {}, "No PV was seen to have more than one server.");
  return table(many(rows.length, "PV"), ["PV", "Domain", "Protocol", "Servers"],
    rows.map((row) => [name(row.pv), name(row.domain), row.protocol,
      name(row.servers.map((server) => (server.pod ? `${server.address} (${server.pod} on ${server.node})` : server.address)).join(", "))]));
}

function showReaders(rows) {
  if (!rows.length) return make("p", {}, "No client reads from a pod.");
  return table(many(rows.length, "pair"), ["Client", "Pod", "Node", "Domain", "Circuits", "PVs"],
    rows.map((row) => [host(row), name(row.pod), name(row.node),
      name(row.domain), String(row.circuits), name(row.pvs.join(", ") || "–")]));
}

// ---- why

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [button, answer] = [$("ask").querySelector("button"), $("answer")];
  const query = new URLSearchParams({ pv: $("pv").value.trim(), from: $("from").value.trim(), protocol: $("protocol").value });
  button.disabled = true;
  answer.setAttribute("aria-busy", "true");
  answer.replaceChildren(make("p", {}, "Looking for 3 s …"));
  try {
    answer.replaceChildren(...explain(await get(`api/why?${query.toString().replaceAll("+", "%20")}`)));
  } catch (error) {
    if (error.status === 401) return enter(error.message);
    answer.replaceChildren(make("p", { class: "wrong" }, error.name === "TimeoutError" ? "There was no answer in 10 s." : error.message));
  } finally {
    button.disabled = false;
    answer.setAttribute("aria-busy", "false");
  }
});

const SIGNS = { ok: "OK", fail: "FAIL", unknown: "?" };
const SPOKEN = { ok: "OK", fail: "broken", unknown: "not known" };

function sign(state) {
  return make("span", { class: state, role: "img", "aria-label": SPOKEN[state] ?? "not known" }, SIGNS[state] ?? "?");
}

function explain(report) {
  const broken = report.rungs.find((rung) => rung.state === "fail") ?? report.rungs.find((rung) => rung.state === "unknown");
  const client = report.client ?? "A client";
  const verb = { ok: "can see", fail: "cannot see", unknown: "may not see" }[report.state];
  const parts = [make("p", { class: "conclusion" }, client, ` ${verb} `, name(report.pv), broken ? `: ${broken.found}.` : ".")];
  if (broken?.mend) parts.push(make("p", { class: "mend" }, "→ ", broken.mend));
  if (report.node) parts.push(make("p", { class: "soft" }, "As seen by node ", name(report.node), ":"));
  const ladder = make("ol", { class: "ladder" });
  for (const rung of report.rungs) ladder.append(make("li", {}, sign(rung.state), make("span", {}, rung.rung), make("bdi", {}, rung.found)));
  parts.push(ladder);
  const others = make("ul", {});
  for (const other of report.others) others.append(make("li", {}, sign(other.state), " ", name(other.node), `: ${other.found}`));
  for (const asked of report.nodes) if (asked.error) others.append(make("li", {}, sign("unknown"), " ", name(asked.node), ` did not answer: ${asked.error}`));
  if (others.children.length) parts.push(make("h3", {}, "Other nodes"), others);
  return parts;
}

// ---- picture

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const WIDE = { host: 210, lan: 250, node: 330, pod: 250 };
const ROW = 34;

// A box with a name, which is cut if it is too long, and whole in its title.
function box(x, y, width, text, kind) {
  const group = shape("g", {});
  const [whole, most] = [printable(text), Math.floor((width - 16) / 8)];
  const letters = [...whole];
  group.append(shape("title", {}, whole), shape("rect", { x, y, width, height: ROW - 8, rx: 4, class: kind }),
    shape("text", { x: x + 8, y: y + 18 }, letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : whole));
  return group;
}

function draw([domains, pods, readers, talkers]) {
  const names = [...new Set(domains.map((domain) => domain.name))].sort();
  if (!names.length) return make("p", {}, "There is no domain.");
  const figure = shape("svg", { role: "img", "aria-label": "Clients, LANs, nodes and pods; the table below has the same in words" });
  let y = 8;
  for (const lan of names) y = drawLan(figure, y, lan, domains.filter((domain) => domain.name === lan),
    pods.filter((pod) => pod.domain === lan), readers.filter((reader) => reader.domain === lan),
    talkers.filter((talker) => talker.domain === lan));
  const width = WIDE.node + WIDE.pod + 120;
  figure.setAttribute("viewBox", `0 0 ${width} ${y}`);
  figure.setAttribute("width", width);
  figure.setAttribute("height", y);
  return figure;
}

// One LAN: its clients to the left, its nodes with their pods to the right; returns where the next one begins.
function drawLan(figure, top, lan, domains, pods, readers, talkers) {
  figure.append(shape("text", { x: 0, y: top + 14 }, `LAN of domain ${printable(lan)}`));
  const start = top + 28;
  const clients = [...new Set([...readers.filter((reader) => !reader.client_pod).map((reader) => reader.client),
    ...talkers.map((talker) => talker.host)])].slice(0, MOST_DRAWN);
  const [hosts, places] = [new Map(), new Map()];
  const [cables, boxes, circuits] = [[], [], []];
  clients.forEach((client, index) => {
    const y = start + index * ROW;
    hosts.set(client, y + 13);
    cables.push(shape("line", { x1: WIDE.host, y1: y + 13, x2: WIDE.lan, y2: y + 13, class: "cable" }));
    boxes.push(box(0, y, WIDE.host, client, "host"));
  });
  let y = start;
  for (const domain of domains) {
    const mine = pods.filter((pod) => pod.node === domain.node).slice(0, MOST_DRAWN);
    const height = 48 + mine.length * ROW;
    cables.push(shape("line", { x1: WIDE.lan, y1: y + 20, x2: WIDE.node, y2: y + 20, class: "cable" }));
    boxes.push(shape("rect", { x: WIDE.node, y, width: WIDE.pod + 40, height: height - 8, rx: 6, class: "node" }),
      shape("text", { x: WIDE.node + 10, y: y + 17 }, printable(domain.node)),
      shape("text", { x: WIDE.node + 10, y: y + 33, class: domain.problem ? "wrong" : "soft" },
        printable(domain.problem ?? `${domain.uplink ?? "?"} ${domain.address ?? ""}`).slice(0, 34)));
    mine.forEach((pod, index) => {
      const at = y + 42 + index * ROW;
      places.set(`${domain.node} ${pod.pod}`, at + 13);
      boxes.push(box(WIDE.node + 24, at, WIDE.pod, pod.pod, "host"));
    });
    y += height;
  }
  for (const reader of readers) circuits.push(...circuit(reader, hosts, places));
  const end = Math.max(y, start + clients.length * ROW) + 4;
  figure.append(...cables, shape("line", { x1: WIDE.lan, y1: start, x2: WIDE.lan, y2: end - 12, class: "lan" }), ...boxes, ...circuits);
  return end + 16;
}

// From a client to a pod; a client in a pod is to the right of it.
function circuit(reader, hosts, places) {
  const to = places.get(`${reader.node} ${reader.pod}`);
  const inPod = reader.client_pod && [...places].find(([key]) => key.endsWith(` ${reader.client_pod}`))?.[1];
  const from = inPod ?? hosts.get(reader.client);
  if (to === undefined || from === undefined || !reader.circuits) return [];
  const [left, right] = [WIDE.node + 24, WIDE.node + 24 + WIDE.pod];
  const way = inPod === undefined || inPod === null
    ? `M${WIDE.host} ${from} C${WIDE.host + 90} ${from} ${left - 90} ${to} ${left} ${to}`
    : `M${right} ${from} C${right + 50} ${from} ${right + 50} ${to} ${right} ${to}`;
  const width = Math.min(5, 1.5 + Math.log2(reader.circuits));
  const line = shape("path", { d: way, class: "circuit", "stroke-width": width });
  line.append(shape("title", {}, `${printable(reader.client_pod ?? reader.client)} reads from ${printable(reader.pod)}: ${many(reader.circuits, "circuit")}`));
  return [line, shape("text", { x: left - 14, y: to - 5, class: "count" }, String(reader.circuits))];
}

// ----

if (token) look();
else enter("");
