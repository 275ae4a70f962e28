// The map of rows: a line for each robot, a column for each layer; colour and number say how old, or how much pending.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function mix(low, high, share) {
  const parts = (text) => [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
  const [from, to] = [parts(low), parts(high)];
  return from.map((value, place) => Math.round(value + (to[place] - value) * share));
}

export class RowMap {
  constructor(canvas, detail) {
    this.canvas = canvas;
    this.detail = detail;
    this.cell = [0, 0];
    this.robots = [];
    this.names = [];
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step || !this.robots.length) return;
      event.preventDefault();
      this.read(this.cell[0] + step[0], this.cell[1] + step[1]);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.robots.length) return;
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left - this.left) / this.width);
      const line = Math.floor((event.clientY - box.top - this.top) / this.height);
      if (column >= 0 && line >= 0 && column < this.names.length && line < this.robots.length) this.read(line, column);
    });
    canvas.addEventListener("focus", () => this.robots.length && this.read(...this.cell));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  show(layers, robots, quantity) {
    this.robots = robots
      .filter((robot) => robot.rows && robot.rows.mean.length)
      .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const count = Math.max(0, ...this.robots.map((robot) => robot.rows.mean.length));
    this.names = Array.from({ length: count }, (_, place) => layers.names[place] || `layer ${place + 1}`);
    this.rows = layers.rows;
    this.quantity = quantity;
    this.canvas.hidden = !this.robots.length;
    this.draw();
    return this.robots.length > 0;
  }

  text(value) {
    return this.quantity === "pending" ? `${Math.round(100 * value)}` : String(Math.round(value * 10) / 10);
  }

  draw() {
    const { canvas, robots, names } = this;
    if (!robots.length) return;
    const context = canvas.getContext("2d");
    const font = "12px system-ui, sans-serif";
    context.font = font;
    const room = canvas.parentElement.clientWidth;
    const widest = Math.max(...robots.map((robot) => context.measureText(robot.name).width));
    this.left = Math.min(Math.ceil(widest) + 10, 140, Math.floor(room / 3));
    this.top = 20;
    this.width = Math.max(10, Math.min(64, Math.floor((room - this.left - 2) / names.length)));
    this.height = robots.length > 20 ? 14 : 24;
    const [width, height] = [this.left + this.width * names.length + 2, this.top + this.height * robots.length + 2];
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = font;
    context.textBaseline = "middle";
    const most = this.quantity === "pending" ? 1 : Math.max(4, ...robots.flatMap((robot) => robot.rows[this.quantity]));
    const [low, high, ink, paper] = [css("--heat-low"), css("--heat-high"), css("--ink"), css("--paper")];
    context.fillStyle = ink;
    context.textAlign = "left";
    const every = Math.max(1, Math.ceil(22 / this.width));
    for (let column = 0; column < names.length; column += every) {
      context.fillText(String(column + 1), this.left + column * this.width + 3, this.top / 2);
    }
    robots.forEach((robot, line) => {
      const y = this.top + line * this.height;
      context.fillStyle = ink;
      context.textAlign = "left";
      context.fillText(robot.name, 0, y + this.height / 2, this.left - 6);
      robot.rows[this.quantity].forEach((value, column) => {
        const share = Math.min(value / most, 1);
        const colour = mix(low, high, share);
        context.fillStyle = `rgb(${colour})`;
        context.fillRect(this.left + column * this.width, y, this.width - 1, this.height - 1);
        const text = this.text(value);
        if (this.height >= 20 && context.measureText(text).width <= this.width - 4) {
          const bright = (colour[0] * 299 + colour[1] * 587 + colour[2] * 114) / 1000 > 128;
          context.fillStyle = bright ? "#111" : "#fff";
          context.textAlign = "center";
          context.fillText(text, this.left + (column + 0.5) * this.width, y + this.height / 2);
        }
      });
    });
    const [line, column] = this.cell;
    if (document.activeElement === canvas && line < robots.length && column < names.length) {
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.strokeRect(this.left + column * this.width, this.top + line * this.height, this.width - 1, this.height - 1);
    }
    const worst = robots.map((robot) => `${robot.name} at most ${this.text(Math.max(...robot.rows[this.quantity]))}`);
    const what = { mean: "mean age in iterations", oldest: "age of the oldest row in iterations", pending: "percent pending" };
    canvas.setAttribute("aria-label", `Map of rows, ${what[this.quantity]}: ${worst.slice(0, 12).join(", ")}`);
    canvas.dataset.cells = robots.length * names.length;
  }

  read(line, column) {
    this.cell = [
      Math.min(Math.max(line, 0), this.robots.length - 1),
      Math.min(Math.max(column, 0), this.names.length - 1),
    ];
    const robot = this.robots[this.cell[0]];
    const place = this.cell[1];
    const { mean, oldest, pending } = robot.rows;
    const rows = this.rows[place] ? `, ${this.rows[place]} rows` : "";
    this.detail.textContent = `${robot.name}, ${place + 1}: ${this.names[place]}${rows}: mean age `
      + `${mean[place]}, oldest ${oldest[place]}, ${Math.round(100 * pending[place])} % pending`;
    this.draw();
  }
}
