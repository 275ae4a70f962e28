// The page of a team: takes what the server sends, and shows it. Nothing here comes from, or goes to, anywhere else.
import { Charts, styleOf } from "./charts.js";
import { RowMap } from "./map.js";

const MOST_DRAWN = 8;
const ENERGY = /batter|watt|power|joule|energy|soc\b/i;
const $ = (id) => document.getElementById(id);
const MARKS = { fine: "●", note: "◐", trouble: "▲" };
const LEVEL_WORDS = { info: "", note: "note: ", trouble: "trouble: " };

const live = { robots: new Map(), log: [], layers: { names: [], rows: [] }, head: {} };
let past = null; // the team at another moment, while one is looked at
let at = null; // that moment, s
let playing = false;
let wanted = null; // a moment that is to be fetched once the one before is here
let fetching = false;
let dirty = { robots: true, log: true, charts: true, map: true };
const chosen = new Set();
let chosenByHand = false;

const shown = () => past || live;
const charts = new Charts({ view: () => ({ team: shown(), at, chosen: [...chosen] }), store: live });
const map = new RowMap($("map"), $("map-detail"));

// -- figures as text ---------------------------------------------------------------------------------------------

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const pad = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}
const figure = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
const mega = (value) => (value === null || value === undefined ? "–" : figure(value / 1e6));
const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);

function levelOf(state) {
  if (["link down", "absent", "quarantined"].includes(state)) return "trouble";
  if (["waiting", "queued", "left", "joining", "seeding", "receiving", "ready"].includes(state)) return "note";
  return "fine";
}

// -- the team ----------------------------------------------------------------------------------------------------

const rows = new Map();

function newRow(name) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `draw the curves of ${name}`);
  box.addEventListener("change", () => {
    chosenByHand = true;
    if (box.checked) chosen.add(name);
    else chosen.delete(name);
    while (chosen.size > MOST_DRAWN) chosen.delete(chosen.values().next().value);
    dirty.robots = true;
    charts.fetch();
  });
  const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  swatch.setAttribute("class", "swatch");
  swatch.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [key, value] of [["x1", 0], ["x2", 26], ["y1", 4], ["y2", 4]]) line.setAttribute(key, value);
  swatch.append(line);
  const text = document.createElement("span");
  text.className = "name";
  text.textContent = text.title = name;
  label.append(box, swatch, text);
  head.append(label);
  row.append(head);
  const cells = ["state", "step", "behind", "metric", "up", "down", "link", "rows", "stall", "energy"].map((key) => {
    const cell = document.createElement("td");
    if (key === "state") cell.className = "state";
    else cell.dataset.label = { up: "up Mbit/s", down: "down Mbit/s", link: "link Mbit/s", rows: "rows sent" }[key] || key;
    row.append(cell);
    return [key, cell];
  });
  const parts = ["mark", "word", "why"].map((name) => {
    const span = document.createElement("span");
    span.className = name;
    return span;
  });
  parts[0].setAttribute("aria-hidden", "true");
  cells[0][1].append(...parts);
  return { row, box, swatch, line, parts, cells: Object.fromEntries(cells) };
}

function put(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

// What a meter reads, and a battery, are told with their units.
const UNITS = [[/^power_w$/, "", "W"], [/^energy_j$/, "", "J"], [/^battery_(pct|percent)$/, "battery ", "%"]];

function energyOf(robot) {
  const found = Object.entries(robot.metrics).filter(([name]) => ENERGY.test(name));
  const texts = found.slice(0, 3).map(([name, value]) => {
    const known = UNITS.find(([pattern]) => pattern.test(name));
    return known ? `${known[1]}${figure(value)} ${known[2]}` : `${name} ${figure(value)}`;
  });
  if (robot.joules !== null) texts.push(`${figure(robot.joules)} J`);
  return texts.join(", ");
}

function showRobots() {
  const team = shown();
  const now = team.head.now || 0;
  const body = $("robots").tBodies[0];
  const names = [...team.robots.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if (!chosenByHand) {
    const first = names.slice(0, MOST_DRAWN);
    if (first.length !== chosen.size || first.some((name) => !chosen.has(name))) {
      chosen.clear();
      first.forEach((name) => chosen.add(name));
      charts.fetch();
    }
  }
  let anyEnergy = false;
  names.forEach((name, place) => {
    const robot = team.robots.get(name);
    if (!rows.has(name)) rows.set(name, newRow(name));
    const { row, box, swatch, line, parts, cells } = rows.get(name);
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] || null);
    const drawn = chosen.has(name);
    box.checked = drawn;
    swatch.style.visibility = drawn ? "visible" : "hidden";
    if (drawn) {
      const style = styleOf([...chosen].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).indexOf(name));
      line.style.stroke = style.colour;
      line.style.strokeDasharray = style.dash.join(" ");
    }
    const level = levelOf(robot.state);
    cells.state.classList.remove("fine", "note", "trouble");
    cells.state.classList.add(level);
    put(parts[0], MARKS[level]);
    const since = level === "fine" ? "" : ` ${clock(now - robot.since)}`;
    put(parts[1], robot.state + (robot.quarantined && robot.state !== "quarantined" ? ", quarantined" : "") + since);
    put(parts[2], robot.why === robot.state ? "" : robot.why || "");
    put(cells.step, robot.iteration === null ? "–" : String(robot.iteration));
    put(cells.behind, robot.staleness === null ? "–" : String(robot.staleness));
    put(cells.metric, figure(robot.metrics[$("metric").value] ?? null, 4));
    for (const key of ["up", "down", "link"]) put(cells[key], mega(robot[key]));
    put(cells.rows, percent(robot.share));
    put(cells.stall, percent(robot.stall));
    const energy = energyOf(robot);
    anyEnergy = anyEnergy || energy !== "";
    put(cells.energy, energy || "–");
  });
  for (const [name, { row }] of rows) {
    if (!team.robots.has(name)) {
      row.remove();
      rows.delete(name);
    }
  }
  $("energy-column").hidden = !anyEnergy;
  for (const { cells } of rows.values()) cells.energy.hidden = !anyEnergy;
  put($("metric-column"), $("metric").value || "metric");
  for (const { cells } of rows.values()) cells.metric.dataset.label = $("metric").value || "metric";
  showSummary(names.map((name) => team.robots.get(name)));
  showMetrics(names);
}

function showSummary(robots) {
  const counts = new Map();
  robots.forEach((robot) => counts.set(robot.state, (counts.get(robot.state) || 0) + 1));
  const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([state, count]) => `${count} ${state}`);
  const ended = shown().head.ended ? ` The server has ended: ${shown().head.ended}.` : "";
  const team = `${robots.length} robot${robots.length === 1 ? "" : "s"}: ${parts.join(", ")}.`;
  put($("summary"), (robots.length ? team : "Nobody has joined yet.") + ended);
}

function showMetrics(names) {
  const team = shown();
  const found = new Set();
  names.forEach((name) => Object.keys(team.robots.get(name).metrics).forEach((metric) => found.add(metric)));
  const rank = (name) => (ENERGY.test(name) ? 2 : name === "loss" ? 1 : 0);
  const list = [...found].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  const select = $("metric");
  if (list.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const before = select.value;
  select.replaceChildren(...list.map((name) => new Option(name, name)));
  select.value = list.includes(before) ? before : list[0] || "";
  dirty.robots = true;
  charts.fetch();
}

// -- what happened -----------------------------------------------------------------------------------------------

function lineOf(entry, start) {
  const item = document.createElement("li");
  item.className = entry.level === "info" ? "fine" : entry.level;
  const make = (tag, name, text) => {
    const part = document.createElement(tag);
    part.className = name;
    part.textContent = text;
    item.append(part);
    return part;
  };
  make("time", "when", clock(entry.t - start));
  const mark = make("span", "mark", { info: "·", note: "◐", trouble: "▲" }[entry.level]);
  mark.setAttribute("aria-hidden", "true");
  make("span", "who", entry.who);
  make("span", "text", LEVEL_WORDS[entry.level] + entry.text);
  item.dataset.number = entry.number;
  return item;
}

let logKey = "";
function showLog() {
  const team = shown();
  const filter = $("filter").value;
  const wantedLevels = { all: ["info", "note", "trouble"], note: ["note", "trouble"], trouble: ["trouble"] }[filter];
  const list = $("log");
  const start = team.head.start || 0;
  const key = `${filter} ${past ? "past" : "live"} ${team.head.generation} ${start}`;
  let entries = team.log.filter((entry) => wantedLevels.includes(entry.level));
  if (key !== logKey || past) {
    list.replaceChildren();
    logKey = key;
  } else {
    const newest = list.firstElementChild ? Number(list.firstElementChild.dataset.number || 0) : 0;
    entries = entries.filter((entry) => entry.number > newest);
    if (entries.length) list.querySelector(".empty")?.remove();
  }
  list.prepend(...entries.reverse().map((entry) => lineOf(entry, start)));
  while (list.children.length > 500) list.lastElementChild.remove();
  if (!list.children.length) {
    const none = document.createElement("li");
    none.className = "empty";
    none.textContent = "nothing yet";
    list.append(none);
  }
}

let saidAt = 0;
function announce(entries) {
  // A screen reader is told of trouble, and not so often that it cannot keep up.
  const trouble = entries.filter((entry) => entry.level === "trouble");
  if (!trouble.length || past || performance.now() - saidAt < 3000) return;
  saidAt = performance.now();
  const last = trouble[trouble.length - 1];
  $("announce").textContent = `${last.who}: ${last.text}`;
}

// -- time --------------------------------------------------------------------------------------------------------

function showTime() {
  const { start, now } = live.head;
  const has = start !== null && start !== undefined && now > start;
  $("time").hidden = !(has && live.replays);
  $("time").classList.toggle("past", past !== null);
  $("live").hidden = past === null;
  if (!has) return;
  const slider = $("slider");
  slider.max = now - start;
  const moment = at === null ? now - start : at - start;
  if (document.activeElement !== slider || at === null || playing) slider.value = moment;
  slider.setAttribute("aria-valuetext", `${clock(moment)} of ${clock(now - start)}`);
  put($("clock"), `${clock(moment)} of ${clock(now - start)}`);
}

function showConnection() {
  const parts = [];
  let trouble = false;
  if (!live.connected) {
    parts.push("▲ connection lost, trying again");
    trouble = true;
  } else if (past) parts.push("◐ replay, not the newest");
  else parts.push(live.head.ended ? "● ended" : "● up to date");
  if (live.loaded < 1) parts.push(`reading the run: ${Math.floor(100 * live.loaded)} %, until then by samples`);
  put($("connection"), parts.join(" · "));
  $("connection").classList.toggle("trouble", trouble);
  put($("about"), [live.title, live.head.policy && `policy ${live.head.policy}`].filter(Boolean).join(" · "));
}

async function seek(t) {
  wanted = t;
  if (fetching) return;
  fetching = true;
  try {
    while (wanted !== null) {
      const moment = wanted;
      wanted = null;
      const answer = await fetch(`at?t=${moment}`);
      if (!answer.ok) break;
      const told = await answer.json();
      if (told.kind !== "whole") break;
      if (at === null) break; // back at the end meanwhile
      past = { robots: new Map(), log: told.log, layers: told.layers, head: headOf(told) };
      told.robots.forEach((robot) => past.robots.set(robot.name, robot));
      touch();
      charts.fetch();
    }
  } catch {
    live.connected = false; // the stream of events notices as well, and says when it is back
  } finally {
    fetching = false;
  }
}

function toTheEnd() {
  at = past = wanted = null;
  play(false);
  touch();
  charts.fetch();
}

function play(on) {
  playing = on;
  put($("play"), on ? "Pause" : "Play");
  $("play").setAttribute("aria-pressed", String(on));
}

$("slider").addEventListener("input", () => {
  at = live.head.start + Number($("slider").value);
  showTime();
  seek(at);
});
$("live").addEventListener("click", toTheEnd);
$("play").addEventListener("click", () => {
  if (!playing && (at === null || at >= live.head.now)) {
    at = live.head.start;
    seek(at);
  }
  play(!playing);
});
setInterval(() => {
  if (!playing || fetching) return;
  at += 0.5 * Number($("speed").value);
  if (at >= live.head.now) toTheEnd();
  else seek(at);
}, 500);

// -- what the server sends ---------------------------------------------------------------------------------------

function headOf(told) {
  const { generation, start, now, policy, ended, records, unknown } = told;
  return { generation, start, now, policy, ended, records, unknown };
}

function touch() {
  dirty = { robots: true, log: true, charts: true, map: true };
}

function take(told) {
  live.connected = true;
  live.loaded = told.loaded;
  live.replays = told.replays;
  live.title = told.title;
  if (told.kind === "whole") {
    live.robots = new Map();
    live.log = [];
    charts.forget();
    logKey = "";
    touch();
  }
  live.head = headOf(told);
  (told.gone || []).forEach((name) => live.robots.delete(name));
  // What is left out has not changed.
  told.robots.forEach((robot) => live.robots.set(robot.name, { ...live.robots.get(robot.name), ...robot }));
  if (told.layers) live.layers = told.layers;
  live.log = live.log.concat(told.log).slice(-500);
  if (told.points) charts.take(told.points);
  if (told.kind === "whole") charts.fetch();
  else announce(told.log);
  if (!past) {
    dirty.robots = dirty.charts = dirty.map = true;
    dirty.log = dirty.log || told.log.length > 0;
  }
}

function connect() {
  const stream = new EventSource("events");
  stream.onmessage = (message) => {
    take(JSON.parse(message.data));
    document.documentElement.dataset.updates = Number(document.documentElement.dataset.updates || 0) + 1;
  };
  stream.onerror = () => {
    live.connected = false;
    if (stream.readyState === EventSource.CLOSED) {
      stream.close();
      setTimeout(connect, 1500); // it was refused: the server may be on its way back
    }
  };
}

function draw() {
  if (dirty.robots) {
    dirty.robots = false;
    showRobots();
  }
  if (dirty.log) {
    dirty.log = false;
    showLog();
  }
  if (dirty.map) {
    dirty.map = false;
    const team = shown();
    const any = map.show(team.layers, [...team.robots.values()], $("quantity").value);
    put($("map-note"), any
      ? "How far what has arrived of each layer is behind the fastest robot (in iterations), and what of its newest "
        + "iteration is still to come. Arrow keys read a cell."
      : "The journal has no map: a server writes one with --page, or with --watch-every-s.");
  }
  showTime();
  showConnection();
}

for (const id of ["metric", "rate"]) $(id).addEventListener("change", () => { dirty.robots = true; charts.fetch(); });
$("span").addEventListener("change", () => charts.fetch());
$("quantity").addEventListener("change", () => { dirty.map = true; });
$("filter").addEventListener("change", () => { dirty.log = true; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { charts.rebuild(); touch(); });
setInterval(draw, 100);
setInterval(() => {
  if (dirty.charts) {
    dirty.charts = false;
    charts.draw();
  }
}, 250);
connect();
