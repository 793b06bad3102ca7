
// ---- pictures: inline SVG drawn from numbers -----------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...content) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...content);
  return node;
}

// The width inside a card that takes this share of the columns; on a phone there is one column.
function room(share) {
  const full = Math.min(root.clientWidth, 1320);
  return Math.round(full <= 900 ? full - 24 - 34 : (full - 56 - 20) * share - 50);
}

function picture(width, height, label, ...content) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "mg-svg" }, ...content);
}

const text = (x, y, words, name = "mg-tick", anchor = "middle") => draw("text", { x, y, class: name, "text-anchor": anchor }, words);

// A figure as a dot with a bar, on a scale from `from` to `to`; `neutral` is where no effect, or chance, would be.
function dot(figure, { from = 0, to = 1, neutral = null, width = 120, height = 18, kind = "", show = decimal, label = "" }) {
  const place = (value) => 5 + ((Math.min(Math.max(value, from), to) - from) / (to - from)) * (width - 10);
  const middle = height / 2;
  const parts = [draw("line", { x1: 5, x2: width - 5, y1: middle, y2: middle, class: "mg-axis" })];
  if (neutral !== null) parts.push(draw("line", { x1: place(neutral), x2: place(neutral), y1: 2, y2: height - 2, class: "mg-neutral" }));
  if (figure.value !== null) {
    if (figure.low !== null) {
      const [low, high] = [place(figure.low), place(figure.high)];
      parts.push(draw("rect", { x: low, y: middle - 3, width: Math.max(high - low, 2), height: 6, rx: 3, class: `mg-range ${kind}` }));
    }
    parts.push(draw("circle", { cx: place(figure.value), cy: middle, r: 4.5, class: `mg-dot ${kind}` }));
  }
  return picture(width, height, `${label} ${words(figure, show)}`.trim(), ...parts);
}

// Several figures below each other on one scale, each with its name, value and chance mark.
function dots(rows, { from = 0, to = 1, ticks = [0, 0.25, 0.5, 0.75, 1], show = decimal, width = room(0.5) }) {
  const names = width < 420 ? 122 : 158;
  const values = 46;
  const step = 34;
  const height = rows.length * step + 22;
  const place = (value) => names + ((Math.min(Math.max(value, from), to) - from) / (to - from)) * (width - names - values - 16);
  const parts = ticks.map((tick) => draw("line", { x1: place(tick), x2: place(tick), y1: 4, y2: height - 20, class: "mg-grid" }));
  parts.push(...ticks.map((tick) => text(place(tick), height - 5, String(tick))));
  rows.forEach(({ name, figure, neutral = null, band = null }, index) => {
    const middle = index * step + step / 2 + 2;
    if (band) parts.push(draw("rect", { x: place(band[0]), y: middle - 11, width: place(band[1]) - place(band[0]), height: 22, rx: 4, class: "mg-band" }));
    if (neutral !== null) parts.push(draw("line", { x1: place(neutral), x2: place(neutral), y1: middle - 11, y2: middle + 11, class: "mg-neutral" }));
    parts.push(text(0, middle + 4, name, "mg-name", "start"));
    if (figure.value === null) {
      parts.push(text(names + 4, middle + 4, "undefined", "mg-none", "start"));
      return;
    }
    if (figure.low !== null) {
      parts.push(draw("rect", { x: place(figure.low), y: middle - 4, width: Math.max(place(figure.high) - place(figure.low), 2), height: 8, rx: 4, class: "mg-range" }));
    }
    parts.push(draw("circle", { cx: place(figure.value), cy: middle, r: 5.5, class: "mg-dot" }));
    parts.push(text(width, middle + 4, show(figure.value), "mg-value", "end"));
  });
  const label = rows.map(({ name, figure }) => `${name}: ${words(figure, show)}`).join("; ");
  return picture(width, height, label, ...parts);
}

// One bar per local day; the running day is hatched, because it is not over.
function dayBars(hours, counts, now, { width = room(1.25 / 2.25), height = 150, days = 28 }) {
  const totals = new Map();
  const start = new Date(now * 1000);
  start.setHours(0, 0, 0, 0);
  const list = Array.from({ length: days }, (_, back) => {
    const date = new Date(start);
    date.setDate(date.getDate() - (days - 1 - back));
    return date.getTime();
  });
  hours.forEach((hour, index) => {
    const date = new Date(hour * 3600 * 1000);
    date.setHours(0, 0, 0, 0);
    totals.set(date.getTime(), (totals.get(date.getTime()) ?? 0) + counts[index]);
  });
  const most = Math.max(1, ...list.map((date) => totals.get(date) ?? 0));
  const step = (width - 8) / days;
  const floor = height - 20;
  const parts = [draw("line", { x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5, class: "mg-axis" })];
  list.forEach((date, index) => {
    const count = totals.get(date) ?? 0;
    const tall = count ? Math.max(2, (count / most) * (floor - 22)) : 0;
    const name = new Date(date).toLocaleDateString([], { day: "numeric", month: "short" });
    const bar = draw("rect", { x: 4 + index * step, y: floor - tall, width: Math.max(step - 4, 2), height: tall, rx: 2.5, class: index === days - 1 ? "mg-bar mg-today" : "mg-bar" });
    bar.append(draw("title", {}, `${name}: ${whole(count)}`));
    parts.push(bar);
    const last = index === days - 1;
    const middle = 4 + index * step + (step - 4) / 2;
    if (count === most && count) parts.push(text(last ? width : middle, floor - tall - 6, whole(count), "mg-value", last ? "end" : "middle"));
    if ((days - 1 - index) % 7 === 0) parts.push(text(last ? width : middle, height - 4, last ? "today" : name, "mg-tick", last ? "end" : "middle"));
  });
  const filled = list.filter((date) => totals.get(date)).length;
  const sum = list.reduce((total, date) => total + (totals.get(date) ?? 0), 0);
  return picture(width, height, `Slots filled per day, last ${days} days: ${whole(sum)} in all, on ${plural(filled, "day")}; at most ${whole(most)} a day`, ...parts);
}

// Parts of a whole as one bar; each part has a name, a number and a look.
function shares(parts, label) {
  const total = parts.reduce((sum, part) => sum + part.count, 0);
  const bar = make("div", "mg-shares");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${label}: ${parts.map((part) => `${part.name} ${whole(part.count)}`).join(", ")}`);
  for (const part of parts) {
    const piece = make("i", `mg-share ${part.look}`);
    piece.style.width = `${total ? (100 * part.count) / total : 0}%`;
    bar.append(piece);
  }
  const legend = make("ul", "mg-legend");
  legend.append(...parts.map((part) => make("li", "", make("i", `mg-swatch ${part.look}`), `${part.name} `, make("b", "", whole(part.count)))));
  return make("div", "mg-shares-box", bar, legend);
}
