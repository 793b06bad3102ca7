// ---- my work: own answers, days, and what is measured about me -----------------------------------

let past = [];

async function openWork() {
  go("work");
  const answer = await ask("work", {});
  if (root.dataset.view !== "work") return;
  if (!answer.ok) return refused(answer, [["Try again", openWork]]);
  past = answer.history;
  drawTotals(answer.totals);
  drawDays(answer.hours, answer.days);
  find(".rk-figures").replaceChildren(...answer.figures.map(figureRow));
  find(".rk-past-note").textContent = past.length < answer.most ? "" : `The latest ${answer.most} are listed.`;
  drawPast();
}

function drawTotals(totals) {
  const facts = [
    [totals.ranked, "ranked"],
    [totals.cannot_judge, "cannot judge"],
    [totals.skipped, "skipped"],
    [totals.available, "left for you"],
  ];
  find(".rk-totals").replaceChildren(...facts.map(([count, label]) => make("div", "", make("dt", "", label), make("dd", "", String(count)))));
}

// ---- days ----------------------------------------------------------------------------------------

const dayName = (date) => date.toLocaleDateString([], { weekday: "short", day: "numeric", month: "short" });

function drawDays(hours, count) {
  const today = new Date();
  const days = Array.from({ length: Math.min(count, 28) }, (_, back) => new Date(today.getFullYear(), today.getMonth(), today.getDate() - back)).reverse();
  const counts = new Map(days.map((date) => [date.getTime(), { tasks: 0, seconds: 0 }]));
  for (const { hour, tasks, seconds } of hours) {
    const at = new Date(hour * 3600e3);
    const day = counts.get(new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime());
    if (day) [day.tasks, day.seconds] = [day.tasks + tasks, day.seconds + seconds];
  }
  const most = Math.max(1, ...[...counts.values()].map((day) => day.tasks));
  const rows = days.map((date) => {
    const day = counts.get(date.getTime());
    const bar = make("li", "rk-day");
    bar.style.setProperty("--share", day.tasks / most);
    bar.toggleAttribute("data-none", !day.tasks);
    const minutes = Math.round(day.seconds / 60);
    bar.title = `${dayName(date)}: ${plural(day.tasks, "task")}${minutes ? `, ${plural(minutes, "minute")}` : ""}`;
    bar.append(make("span", "rk-hidden", bar.title));
    return bar;
  });
  find(".rk-days ol").replaceChildren(...rows);
  find(".rk-days-first").textContent = dayName(days[0]);
  find(".rk-days-most").textContent = `most in a day: ${most === 1 && !hours.length ? 0 : most}`;
}

// ---- figures -------------------------------------------------------------------------------------

function figureRow(row) {
  const node = make("li", "rk-figure");
  const value = make("span", "rk-figure-value", row.value || "undefined");
  value.toggleAttribute("data-none", !row.value);
  const facts = [row.range, row.value ? row.basis : row.basis.replace(/^undefined, /, "")].filter(Boolean).join(", ");
  node.append(
    make("div", "rk-figure-head", make("h3", "", row.title), value, make("span", "rk-figure-facts", facts)),
    row.scale ? figurePicture(row) : make("span", "rk-figure-blank"),
    make("p", "", row.meaning),
  );
  return node;
}

// A dot with its interval on a line from 0 to 100 %.
function figurePicture({ scale: [value, low, high], middle }) {
  const picture = hidden(make("div", "rk-scale"));
  const at = (share) => `${(100 * share).toFixed(1)}%`;
  const bar = make("span", "rk-scale-bar");
  bar.style.left = at(low);
  bar.style.width = at(high - low);
  const dot = make("span", "rk-scale-dot");
  dot.style.left = at(value);
  picture.append(bar, dot);
  if (middle !== null) {
    const line = make("span", "rk-scale-middle");
    line.style.left = at(middle);
    picture.append(line);
  }
  return picture;
}

// ---- own answers ---------------------------------------------------------------------------------

function drawPast() {
  const verdict = find(".rk-past-verdict").value;
  const words = find(".rk-past-search").value.trim().toLowerCase();
  const rows = past.filter((row) => (!verdict || row.verdict === verdict) && row.excerpt.toLowerCase().includes(words));
  const box = find(".rk-history ol");
  box.replaceChildren(...rows.map(pastRow));
  if (!rows.length) box.append(make("li", "rk-none", past.length ? "No answer fits." : "Nothing yet."));
  find(".rk-past-count").textContent = past.length ? `${rows.length} of ${plural(past.length, "answer")}` : "";
}

function pastRow(row) {
  const node = make("li", "rk-past");
  const groups = [...new Set(row.ranks)].sort().map((rank) => row.ranks.flatMap((value, place) => (value === rank ? [LETTERS[place]] : [])).join(" = "));
  const facts = make("span", "rk-facts", new Date(row.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
  if (row.version > 1) facts.append(` · version ${row.version}`);
  if (row.surplus) facts.append(" · kept, not counted");
  const open = button("Correct", "rk-correct", () => correct(row.task_id), `Correct the answer to: ${row.excerpt}`);
  const excerpt = make("span", "rk-excerpt");
  excerpt.append(visible(row.excerpt));
  node.append(
    make("div", "rk-past-text", excerpt, facts),
    make("span", `rk-verdict rk-was-${row.verdict}`, groups.join(" > ") || VERDICTS[row.verdict]),
    open,
  );
  return node;
}

find(".rk-past-verdict").addEventListener("change", drawPast);
find(".rk-past-search").addEventListener("input", drawPast);
