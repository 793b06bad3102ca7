
// ---- annotators ----------------------------------------------------------------------------------

let sortBy = ["name", 1];

const TOO_FAST_SHARE = 0.05;

// A column: its title, what it is sorted by, how a cell looks.
const COLUMNS = [
  { key: "name", title: "Annotator", of: (row) => row.name.toLowerCase(), cell: personCell },
  { key: "tasks", title: "Tasks", of: (row) => row.figures.ranked, cell: tasksCell },
  { key: "reliability", title: "Reliability", of: (row) => row.figures.reliability.value, cell: (row) => figureCell(row.figures.reliability, { neutral: 0.5, label: "Reliability" }, lowIsBad(row.figures.reliability)) },
  { key: "agreement", title: "With others", of: (row) => row.figures.agreement.value, cell: (row, overall) => figureCell(row.figures.agreement, { neutral: overall.agreement.value, label: "Agreement with others" }, below(row.figures.agreement, overall.agreement.value)) },
  { key: "gold", title: "Gold", of: (row) => row.figures.gold.value, cell: (row) => figureCell(row.figures.gold, { label: "Gold items" }, lowIsBad(row.figures.gold)) },
  { key: "self", title: "With self", of: (row) => row.figures.consistency.value, cell: (row) => figureCell(row.figures.consistency, { label: "Agreement with self" }, lowIsBad(row.figures.consistency)) },
  { key: "pace", title: "s / 1000 char.", of: (row) => row.figures.seconds_per_1000.value, cell: paceCell },
  { key: "first", title: "First wins", of: (row) => row.figures.first_wins.value, cell: (row) => figureCell(row.figures.first_wins, { neutral: 0.5, label: "Shown first wins" }, apart(row.figures.first_wins, 0.5)) },
  { key: "longer", title: "Longer wins", of: (row) => row.figures.longer_wins.value, cell: (row, overall) => figureCell(row.figures.longer_wins, { neutral: overall.longer_wins.value, label: "Longer wins" }, apart(row.figures.longer_wins, overall.longer_wins.value)) },
];

// A figure is marked only where its whole interval lies on the wrong side.
const lowIsBad = (figure) => figure.high !== null && figure.high < 0.6;
const below = (figure, value) => figure.high !== null && value !== null && figure.high < value - 0.05;
const apart = (figure, value) => figure.low !== null && value !== null && (figure.low > value + 0.05 || figure.high < value - 0.05);

function drawAnnotators(answer) {
  const page = pageOf("annotators");
  const rows = sorted(answer.people);
  const widest = Math.max(1, ...answer.people.map((row) => row.figures.ranked));
  for (const row of rows) row.widest = widest;
  const table = make("table", "mg-table", tableHead(() => drawAnnotators(answer)), make("tbody", "", ...rows.map((row) => personRow(row, answer.overall))));
  redraw(
    page,
    card(
      "Annotators",
      "Dots are estimates, bars their 95 % intervals; the dashed line is chance, or what everybody together does. A marked figure lies wholly on the wrong side: a reason to talk, not a verdict.",
      rows.length ? table : make("p", "mg-quiet", "Nobody has an account yet."),
    ),
  );
}

function sorted(people) {
  const [key, direction] = sortBy;
  const of = COLUMNS.find((column) => column.key === key).of;
  return [...people].sort((one, two) => {
    const [a, b] = [of(one), of(two)];
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // undefined comes last
    return (a < b ? -1 : a > b ? 1 : 0) * direction;
  });
}

function tableHead(again) {
  const row = make("tr", "");
  for (const column of COLUMNS) {
    const here = sortBy[0] === column.key;
    const cell = make("th", "", keyed(button(column.title, "mg-sort", () => {
      sortBy = [column.key, here ? -sortBy[1] : column.key === "name" ? 1 : -1];
      again();
    }), `sort-${column.key}`));
    cell.scope = "col";
    cell.setAttribute("aria-sort", here ? (sortBy[1] > 0 ? "ascending" : "descending") : "none");
    row.append(cell);
  }
  const last = make("th", "", "Work");
  last.scope = "col";
  row.append(last);
  return make("thead", "", row);
}

function personRow(row, overall) {
  const node = make("tr", row.paused ? "mg-paused" : "");
  for (const column of COLUMNS) {
    const cell = make(column.key === "name" ? "th" : "td", "", column.cell(row, overall));
    if (column.key === "name") cell.scope = "row";
    cell.dataset.title = column.title;
    node.append(cell);
  }
  const acts = make("td", "mg-acts", pauseButton(row), limitField(row));
  acts.dataset.title = "Work";
  node.append(acts);
  return node;
}

function personCell(row) {
  const box = make("div", "mg-who", make("b", "", row.name), make("span", "", row.pseudonym));
  if (row.kind !== "human") box.append(make("em", "mg-kind", row.kind));
  if (row.paused) box.append(make("em", "mg-kind mg-off", "paused"));
  if (!row.active) box.append(make("em", "mg-kind mg-off", "not active"));
  return box;
}

function tasksCell(row) {
  const figures = row.figures;
  const more = [[figures.cannot_judge, "cannot judge"], [figures.skipped, "skipped"], [figures.surplus, "surplus"]].filter(([count]) => count);
  const bar = make("i", "mg-amount");
  bar.style.width = `${(100 * figures.ranked) / row.widest}%`;
  const box = make("div", "mg-cell", make("b", "", whole(figures.ranked)), make("span", "mg-amounts", bar));
  if (more.length) box.append(make("span", "mg-note", more.map(([count, name]) => `${whole(count)} ${name}`).join(", ")));
  return box;
}

function figureCell(figure, options, marked) {
  if (figure.value === null) {
    const none = make("span", "mg-note", "undefined");
    none.title = `undefined, because ${figure.reason}`;
    none.append(make("span", "mg-hidden", `, because ${figure.reason}`));
    return none;
  }
  const value = make("b", marked ? "mg-marked" : "", figure.value.toFixed(2));
  if (marked) value.append(make("span", "mg-hidden", " (marked)"));
  return make("div", "mg-cell", value, dot(figure, { ...options, width: 84, kind: marked ? "mg-marked" : "" }));
}

function paceCell(row) {
  const { seconds_per_1000: pace, too_fast: fast, timed } = row.figures;
  if (pace.value === null) return figureCell(pace, {}, false);
  const box = make("div", "mg-cell", make("b", "", decimal(pace.value)));
  if (fast) box.append(make("span", fast > TOO_FAST_SHARE * timed ? "mg-note mg-marked" : "mg-note", `${whole(fast)} of ${whole(timed)} too fast`));
  return box;
}

function pauseButton(row) {
  const label = row.paused ? "Resume" : "Pause";
  return keyed(button(label, "mg-plain", () => change("pause", { annotator: row.id, paused: !row.paused }, `${row.name} ${row.paused ? "gets tasks again" : "gets no new tasks now"}.`), `${label} ${row.name}`), `pause-${row.id}`);
}

function limitField(row) {
  const input = keyed(make("input", "mg-limit"), `limit-${row.id}`);
  Object.assign(input, { type: "number", min: "0", max: "1000000", placeholder: "no limit", value: row.task_limit ?? "" });
  input.addEventListener("change", () => {
    const limit = input.value === "" ? null : Number(input.value);
    const said = limit === null ? `${row.name} has no limit of his or her own now.` : `${row.name} gets at most ${plural(limit, "task")}.`;
    change("limit", { annotator: row.id, limit }, said);
  });
  return make("label", "mg-limits", make("span", "mg-hidden", `Most tasks for ${row.name}`), input);
}

async function change(name, payload, said) {
  const answer = await ask(name, payload);
  await load();
  notice(answer.ok ? said : answer.error, answer.ok ? "good" : "warn");
}
