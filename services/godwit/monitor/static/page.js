// The monitor's page: news from the log into the document, as text and never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const migrations = new Map(); // id -> what the log says of it
const rows = new Map(); // id -> its table row
let opened = ""; // the id of the migration that is shown in detail
let openedPlace = 0; // up to where in the log its timeline is shown
let asked = 0; // when that was asked for
let askAgain; // the timer for what has come too soon after that
let known = 0; // how many migrations can be asked for
let hasMore = false; // whether some of them that match the filter are not here
let leftOut = 0; // how many more the log has
const TIMELINE_MS = 2000; // however much happens, it is asked for no more often
const FILTER_MS = 300; // so long after the last key older ones are asked for, too
const RETRY_MS = 3000; // so long after an answer that is no stream it is asked again
const KEPT_MAX = 1000; // of more, those that ended first are forgotten

// Text is set only where it differs, so that a reader or a selection is not disturbed.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function scaled(value, units) {
  const [unit, factor] = units.find(([, least]) => Math.abs(value) >= least) ?? units.at(-1);
  const number = value / factor;
  return `${number >= 99.95 ? number.toFixed(0) : number.toFixed(1)} ${unit}`;
}
const size = (bytes) => scaled(bytes, [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10], ["bytes", 1]]);
const rate = (bytes) => scaled(bytes * 8, [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3], ["bit/s", 1]]);
const time = (ms) => scaled(ms, [["h", 3600e3], ["min", 60e3], ["s", 1e3], ["ms", 1], ["µs", 1e-3]]);
const orNone = (value, told) => (value ? told(value) : "–");
const words = (text) => text.replaceAll("_", " ");

function stunOf(each) {
  if (each.stun_ms !== null) return time(each.stun_ms);
  return each.running && each.predicted_stun_ms !== null ? `about ${time(each.predicted_stun_ms)}` : "–";
}

function toGo(each) {
  if (!each.running) return "ended";
  if (each.remaining_s === null) return "?";
  return each.remaining_s < 0.1 ? "soon over" : time(each.remaining_s * 1000);
}

const COLUMNS = [
  ["Machine", "", (each) => each.machine],
  ["Route", "", (each) => `${each.source || "?"} → ${each.destination || "?"}`],
  ["State", "", (each) => each.phase],
  ["Round", "n", (each) => orNone(each.round, String)],
  ["Rate", "n", (each) => (each.running ? orNone(each.bytes_per_second, rate) : "–")],
  ["Remaining", "n", (each) => (each.running ? orNone(each.remaining_bytes, size) : "–")],
  ["Stun", "n", stunOf],
  ["To go", "n", toGo],
];

function makeRow(id) {
  const row = make("tr");
  row.setAttribute("role", "row");
  COLUMNS.forEach(([label, className], place) => {
    const cell = make("td", className);
    cell.setAttribute("role", "cell");
    cell.dataset.label = label;
    if (!place) {
      const link = make("a");
      link.href = `#migration/${id}`;
      cell.append(link);
    }
    row.append(cell);
  });
  return row;
}

function drawRow(each) {
  let row = rows.get(each.id);
  if (!row) rows.set(each.id, (row = makeRow(each.id)));
  COLUMNS.forEach(([, , told], place) => {
    const cell = row.children[place];
    setText(place ? cell : cell.firstChild, told(each));
  });
  row.children[2].className = each.phase.replaceAll(" ", "-");
  return row;
}

const endedAt = (each) => each.requested_wall_ns / 1e9 + each.duration_s;

// Those that run first, the oldest before; then those that have ended, the newest before.
function inOrder() {
  const all = [...migrations.values()];
  const running = all.filter((each) => each.running).sort((a, b) => a.requested_wall_ns - b.requested_wall_ns);
  const ended = all.filter((each) => !each.running).sort((a, b) => endedAt(b) - endedAt(a));
  return [...running, ...ended];
}

function drawList() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const body = byId("migrations");
  const focused = document.activeElement;
  let shown = 0;
  inOrder().forEach((each, place) => {
    const row = drawRow(each);
    const searched = `${each.machine} ${each.source} ${each.destination} ${each.phase} ${each.id}`.toLowerCase();
    row.hidden = !wanted.every((word) => searched.includes(word));
    shown += row.hidden ? 0 : 1;
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
  });
  if (body.contains(focused)) focused.focus({ preventScroll: true }); // a row that moves loses it
  const running = [...migrations.values()].filter((each) => each.running).length;
  setText(byId("count"), `${shown} of ${known} shown, ${running} running`);
  byId("older").hidden = !hasMore || migrations.size >= KEPT_MAX;
  const told = `${leftOut.toLocaleString("en")} older ones are only in the log: godwit migration list`;
  setText(byId("left-out"), leftOut ? told : "");
  setText(byId("none"), known ? "No migration matches." : "No migration yet.");
  byId("none").hidden = shown > 0;
}

function drawGpu(gpu) {
  const item = make("li");
  item.append(make("h3", "", `${gpu.host} GPU ${gpu.gpu}: ${gpu.model}${gpu.simulated ? " (SIMULATED)" : ""}`));
  const scale = make("div", "scale");
  scale.setAttribute("aria-hidden", "true"); // the list below says the same in words
  const holds = make("ul", "holds");
  for (const hold of [...gpu.holds].sort((a, b) => a.start - b.start)) {
    const part = make("span", hold.state === "held" ? "held" : "");
    part.style.flexBasis = `${(100 * hold.framebuffer_bytes) / gpu.memory_bytes}%`;
    scale.append(part);
    const state = hold.state === "held" ? "held for a migration or a start" : "in use";
    holds.append(make("li", "", `${hold.machine}: ${hold.profile}, ${size(hold.framebuffer_bytes)}, ${state}`));
  }
  item.append(scale, holds);
  const health = gpu.health ? `, ${gpu.health}` : "";
  item.append(make("p", "", `${size(gpu.free_bytes)} of ${size(gpu.memory_bytes)} free${health}`));
  return item;
}

function drawCluster(cluster) {
  byId("gpus").replaceChildren(...cluster.gpus.map(drawGpu));
  byId("no-gpus").hidden = cluster.gpus.length > 0;
  byId("simulated").hidden = !cluster.gpus.some((gpu) => gpu.simulated);
}

function drawFacts(each) {
  const because = [words(each.reason), each.message].filter(Boolean).join(": ");
  const facts = [
    ["State", each.phase + (because ? ` (${because})` : "")],
    ["Route", COLUMNS[1][2](each)],
    ["Rounds", `${each.round}, ${size(each.sent_bytes)} sent`],
    ["Link, writes", `${orNone(each.bytes_per_second, rate)}, ${orNone(each.dirty_bytes_per_second, rate)}`],
    ["Stun", `${stunOf(each)}, limit ${time(each.stun_limit_ms)}`],
    ["To go", each.duration_s === null ? toGo(each) : `ended after ${time(each.duration_s * 1000)}`],
    ["Id", each.id],
  ];
  const list = byId("facts");
  if (!list.children.length) facts.forEach(() => list.append(make("dt"), make("dd")));
  facts.forEach(([name, told], place) => {
    setText(list.children[2 * place], name);
    setText(list.children[2 * place + 1], told);
  });
}

function drawMoment(moment) {
  const item = make("li");
  const at = new Date(moment.wall_ms);
  const clock = make("time", "", at.toTimeString().slice(0, 8) + "." + String(at.getMilliseconds()).padStart(3, "0"));
  clock.dateTime = at.toISOString();
  const what = make("span", "what", moment.text);
  if (moment.because) what.append(make("small", "", `because of ${moment.because}`));
  item.append(clock, make("span", "who", `${moment.lane}@${moment.host}`), what);
  return item;
}

// What an address answers, or null: that nobody answers is told at the top of the page.
async function ask(path) {
  try {
    return await (await fetch(path)).json();
  } catch {
    return null;
  }
}

async function drawTimeline(id) {
  const story = await ask(`/api/migrations/${id}`);
  if (id !== opened || !story) return;
  if (story.error) return setText(byId("detail-title"), story.error);
  byId("timeline").replaceChildren(...story.events.map(drawMoment));
  byId("cut").hidden = story.is_whole;
  if (!migrations.has(id) && story.migration) drawOne(story.migration);
}

function drawOne(each) {
  setText(byId("detail-title"), `Migration of ${each.machine}`);
  drawFacts(each);
}

function drawDetail() {
  const each = migrations.get(opened);
  if (!each) return;
  drawOne(each);
  if (each.place === openedPlace) return;
  const wait = openedPlace ? asked + TIMELINE_MS - performance.now() : 0;
  clearTimeout(askAgain);
  if (wait > 0) {
    askAgain = setTimeout(drawDetail, wait);
    return;
  }
  openedPlace = each.place;
  asked = performance.now();
  drawTimeline(opened);
}

function route() {
  const [, id = ""] = location.hash.match(/^#migration\/([0-9a-f-]+)$/) ?? [];
  const left = rows.get(opened);
  const changed = id !== opened;
  opened = id;
  openedPlace = 0;
  clearTimeout(askAgain);
  byId("overview").hidden = Boolean(id);
  byId("detail").hidden = !id;
  if (!id) {
    drawList();
    if (changed) (left && !left.hidden ? left.querySelector("a") : byId("main")).focus();
    return;
  }
  byId("report").href = `/migrations/${id}/report`;
  byId("timeline").replaceChildren();
  byId("facts").replaceChildren();
  byId("cut").hidden = true;
  setText(byId("detail-title"), "Migration");
  if (migrations.has(id)) drawDetail();
  else drawTimeline(id);
  byId("detail-title").focus();
}

function forget(id) {
  migrations.delete(id);
  rows.get(id)?.remove();
  rows.delete(id);
}

// Older ones that match the filter. What is here already has been told later than this.
async function askOlder(before) {
  const asked = new URLSearchParams({ filter: byId("filter").value, before });
  const page = await ask(`/api/migrations?${asked}`);
  if (!page?.migrations) return;
  for (const each of page.migrations) {
    if (!migrations.has(each.id)) migrations.set(each.id, each);
  }
  hasMore = page.more > 0;
  drawList();
}

const shownIds = () => inOrder().map((each) => each.id).filter((id) => rows.get(id) && !rows.get(id).hidden);

async function showOlder() {
  const before = shownIds();
  await askOlder(before.at(-1) ?? "");
  rows.get(shownIds()[before.length])?.querySelector("a").focus();
}

function take(news) {
  if (news.fresh) [...migrations.keys()].forEach(forget);
  known = news.known;
  leftOut = news.left_out;
  if (news.connected) tellConnection("live", "");
  else tellConnection("the event log does not answer; this is what it said last", "lost");
  for (const each of news.migrations) migrations.set(each.id, each);
  if (news.fresh) hasMore = known > migrations.size;
  inOrder().slice(KEPT_MAX).forEach((each) => forget(each.id));
  if (news.cluster) drawCluster(news.cluster);
  if (opened) drawDetail();
  else drawList();
}

function tellConnection(text, className) {
  setText(byId("connection"), text);
  byId("connection").className = className;
}

// The first news come with the stream itself.
function listen() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("error", () => {
    tellConnection("not connected; trying again", "lost");
    // It tries again by itself, but not after an answer that is no stream: a proxy's, or "too many".
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  });
  stream.addEventListener("news", (message) => take(JSON.parse(message.data)));
}

let typed; // the timer that waits for the next key
byId("filter").addEventListener("input", () => {
  drawList();
  clearTimeout(typed);
  typed = setTimeout(() => askOlder(""), FILTER_MS);
});
byId("older").addEventListener("click", showOlder);
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && opened) location.hash = "";
  if (event.key === "/" && !opened && document.activeElement !== byId("filter")) {
    event.preventDefault();
    byId("filter").focus();
  }
});
route();
listen();
