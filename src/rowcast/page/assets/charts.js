// Curves of the chosen robots: the last minutes from what is sent as it happens, the whole run as the server has it.

const RECENT_S = 300;
const MOST_POINTS = 2000;
const WHOLE_EVERY_MS = 5000;
const DASHES = [[], [9, 4], [3, 3], [12, 3, 3, 3], [6, 6], [], [9, 4], [3, 3]];

const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function styleOf(place) {
  const number = Math.max(place, 0) % 8;
  return { colour: css(`--c${number}`), dash: DASHES[number] };
}

function seconds(value) {
  const whole = Math.round(value);
  const pad = (part) => String(part).padStart(2, "0");
  return whole >= 3600
    ? `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)} h`
    : `${Math.floor(whole / 60)}:${pad(whole % 60)}`;
}

class Chart {
  constructor(id, curve, scale, range) {
    this.place = $(id);
    this.curve = curve; // () => name
    this.scale = scale;
    this.range = range;
    this.plot = null;
    this.key = "";
    this.points = new Map(); // robot -> {total, times, values} of the newest
    this.whole = new Map();
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: Math.max(this.place.clientWidth, 120), height: 220 };
  }

  forget() {
    this.points.clear();
    this.whole.clear();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.key = "";
  }

  draw(names, source, start, from, to) {
    const tables = [];
    const drawn = [];
    names.forEach((name, place) => {
      const found = source.get(name);
      if (!found || !found.times.length) return;
      tables.push([found.times.map((t) => t - start), found.values.map((value) => value * this.scale)]);
      drawn.push({ name, style: styleOf(place) });
    });
    const key = drawn.map((each) => `${each.name} ${each.style.colour}`).join("|");
    const data = tables.length ? uPlot.join(tables) : [[0], []];
    if (key !== this.key || !this.plot) {
      this.rebuild();
      this.key = key;
      this.plot = new uPlot(this.options(drawn), tables.length ? data : [[]], this.place);
    }
    this.window = [Math.max(from - start, 0), Math.max(to - start, 1)];
    if (tables.length) this.plot.setData(data);
    else this.plot.setData([[]]);
    const texts = drawn.map(({ name }, place) => `${name} ${Number(tables[place][1].at(-1).toPrecision(3))}`);
    this.place.setAttribute("aria-label", `${this.curve()}: ${texts.join(", ") || "no values yet"}`);
    this.place.dataset.points = tables.reduce((sum, table) => sum + table[0].length, 0);
  }

  options(drawn) {
    const axis = { stroke: css("--faint"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--line"), width: 1 } };
    return {
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false, range: () => this.window || [0, 1] }, y: { range: this.range } },
      axes: [
        { ...axis, space: 60, values: (_, splits) => splits.map(seconds) },
        { ...axis, size: 52, values: (_, splits) => splits.map((value) => String(Number(value.toPrecision(3)))) },
      ],
      series: [
        {},
        ...drawn.map(({ name, style }) => ({
          label: name, stroke: style.colour, dash: style.dash, width: 1.6, spanGaps: true, points: { show: false },
        })),
      ],
    };
  }
}

function upwards(_, low, high) {
  if (low === null || high === null) return [0, 1];
  return [Math.min(0, low), high > 0 ? high * 1.08 : 1];
}

function around(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

export class Charts {
  constructor({ view, store }) {
    this.view = view;
    this.store = store;
    this.charts = [
      new Chart("chart-metric", () => `metric/${$("metric").value}`, 1, around),
      new Chart("chart-rate", () => $("rate").value, 1e-6, upwards),
      new Chart("chart-stall", () => "stall", 1, () => [0, 1]),
    ];
    this.turn = 0;
    setInterval(() => { if (this.span() === "whole" && this.view().at === null) this.fetch(); }, WHOLE_EVERY_MS);
  }

  span() {
    return document.querySelector("#span input:checked").value;
  }

  forget() {
    this.charts.forEach((chart) => chart.forget());
  }

  rebuild() {
    this.charts.forEach((chart) => chart.rebuild());
  }

  // New points, as they happen; where some are missing in between all are fetched.
  take(points) {
    let gap = false;
    for (const chart of this.charts) {
      const curve = chart.curve();
      for (const [name, curves] of Object.entries(points)) {
        const told = curves[curve];
        const known = chart.points.get(name);
        if (!told || !known || chart.of !== curve) continue;
        const [before, times, values] = told;
        const skip = known.total - before;
        if (skip < 0) {
          gap = true;
          continue;
        }
        known.times.push(...times.slice(skip));
        known.values.push(...values.slice(skip));
        known.total = Math.max(known.total, before + times.length);
        if (known.times.length > MOST_POINTS) {
          known.times.splice(0, known.times.length - MOST_POINTS / 2);
          known.values.splice(0, known.values.length - MOST_POINTS / 2);
        }
      }
    }
    if (gap || this.charts.some((chart) => this.lacks(chart, points))) this.fetch();
  }

  // A chosen robot has a first point of a curve.
  lacks(chart, points) {
    const curve = chart.curve();
    return this.view().chosen.some((name) => points[name]?.[curve] && !chart.points.has(name));
  }

  async fetch() {
    const turn = ++this.turn;
    const { at, chosen } = this.view();
    if (!chosen.length) {
      this.draw();
      return;
    }
    const whole = this.span() === "whole";
    try {
      await Promise.all(this.charts.map(async (chart) => {
        const curve = chart.curve();
        const query = new URLSearchParams({ curve, span: whole ? "whole" : "recent" });
        chosen.forEach((name) => query.append("robot", name));
        if (at !== null) query.set("t", at);
        const answer = await fetch(`curves?${query}`);
        if (!answer.ok || turn !== this.turn) return;
        const told = await answer.json();
        if (turn !== this.turn) return;
        const target = new Map();
        for (const [name, [total, times, values]] of Object.entries(told)) target.set(name, { total, times, values });
        if (whole) chart.whole = target;
        else [chart.points, chart.of] = [target, curve];
      }));
    } catch {
      return; // the server is away; the stream of events brings all of it once it is back
    }
    if (turn === this.turn) this.draw();
  }

  draw() {
    const { team, at, chosen } = this.view();
    const { start, now } = team.head;
    if (start === undefined || start === null || typeof uPlot === "undefined") return;
    const to = at ?? now;
    const whole = this.span() === "whole";
    const names = [...chosen].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    for (const chart of this.charts) {
      const from = whole ? start : Math.max(start, to - RECENT_S);
      chart.draw(names, whole ? chart.whole : chart.points, start, from, to);
    }
  }
}
