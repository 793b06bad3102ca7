
// ---- overview ------------------------------------------------------------------------------------

function drawOverview(answer) {
  const { progress, forecast, agreement, bias, balance, seconds, now } = answer;
  const page = pageOf("overview");
  redraw(
    page,
    scriptedNote(answer.scripted),
    make("div", "mg-numbers", ...headline(progress, forecast, seconds, now)),
    make("div", "mg-columns", progressCard(progress, answer.hours, now), forecastCard(forecast, now)),
    make("div", "mg-columns", agreementCard(agreement), biasCard(bias, balance)),
  );
}

function scriptedNote(names) {
  if (!names.length) return null;
  return make("p", "mg-scripted", `These figures rest in part on scripted annotators (${names.slice(0, 4).join(", ")}${names.length > 4 ? ", …" : ""}), not on people alone.`);
}

function number(value, name, note) {
  return make("div", "mg-number", make("b", "", value), make("span", "", name), note ? make("em", "", note) : null);
}

function headline(progress, forecast, seconds, now) {
  const share = progress.slots ? progress.filled / progress.slots : 0;
  const [low, middle, high] = forecast.ends;
  const done = progress.filled === progress.slots ? ["done", "every slot is filled"] : ["closed", "the rest is given out no more"];
  const end = !forecast.left ? done : middle === null ? ["not yet known", forecast.days.reason] : [day(middle, now), low === null ? "the pace may come to nothing" : `${day(low, now)} to ${day(high, now)}`];
  return [
    number(percent(share, share > 0.1 ? 0 : 1), "of the slots filled", `${whole(progress.filled)} of ${whole(progress.slots)}`),
    number(whole(progress.complete), "tasks complete", `of ${whole(progress.tasks)}`),
    number(end[0], "expected end", end[1]),
    number(seconds.value === null ? "–" : duration(seconds.value), "of work per task", seconds.value === null ? seconds.reason : words(seconds, duration).replace(/^[^(]*/, "")),
    number(whole(progress.leased), "being worked on", "at this moment"),
  ];
}

function progressCard(progress, [hours, counts], now) {
  const open = progress.tasks - progress.complete;
  return card(
    "Progress",
    progress.closed ? `This round was closed; ${plural(open, "task")} stayed incomplete.` : null,
    shares(
      [
        { name: "complete", count: progress.complete, look: "mg-full" },
        { name: "started", count: progress.started, look: "mg-half" },
        { name: "untouched", count: progress.untouched, look: "mg-empty" },
      ],
      "Tasks",
    ),
    make("h3", "", "Slots filled per day"),
    dayBars(hours, counts, now, {}),
  );
}

function forecastCard({ left, work_hours: work, per_day: pace, days, ends }, now) {
  const lines = make("dl", "mg-facts");
  const line = (name, value) => lines.append(make("div", "", make("dt", "", name), make("dd", "", value)));
  line("Left to fill", plural(left, "slot"));
  line("That is work for", left ? words(work, (hours) => duration(hours * 3600)) : "nobody");
  line("Pace, slots per day", words(pace, whole));
  line("Days left", words(days, (value) => value.toFixed(1)));
  if (ends[1] !== null) line("Complete on", ends[0] === null ? day(ends[1], now) : `${day(ends[1], now)} (${day(ends[0], now)} to ${day(ends[2], now)})`);
  return card("Forecast", "If people go on as in the last days. The range is a 95 % interval over days.", lines);
}

function undefinedList(rows) {
  const missing = rows.filter(({ figure }) => figure.value === null);
  if (!missing.length) return null;
  return make("ul", "mg-missing", ...missing.map(({ name, figure }) => make("li", "", `${name}: ${words(figure)}.`)));
}

function agreementCard(agreement) {
  const rows = [
    { name: "Pairs, strict", figure: agreement.strict, neutral: 0.5, band: [0.63, 0.77] },
    { name: "Pairs, with ties", figure: agreement.tie_aware, neutral: 0.5 },
    { name: "Krippendorff's α", figure: agreement.alpha, neutral: 0 },
    { name: "α, ordinal", figure: agreement.alpha_ordinal, neutral: 0 },
    { name: "Kendall's W", figure: agreement.kendalls_w },
    { name: "Kendall's τ-b", figure: agreement.kendalls_tau, neutral: 0 },
  ];
  const used = agreement.strict.n ? `From ${plural(agreement.strict.n, "task")} that two or more people ranked. ` : "";
  return card(
    "Agreement",
    `${used}Bars are 95 % intervals, dashes mark chance, the shaded band is what papers report.`,
    dots(rows, {}),
    undefinedList(rows),
  );
}

function biasCard(bias, balance) {
  const effects = [
    { name: "Shown first wins", figure: bias.first_wins, neutral: 0.5 },
    { name: "Longer wins", figure: bias.longer_wins, neutral: 0.5 },
  ];
  const places = bias.rank_by_place.map((figure, place) => ({ name: `Place ${place + 1}`, figure, neutral: 0.5 }));
  const even = balance.tasks ? `${whole(balance.even)} of ${plural(balance.tasks, "ranked task")} are balanced: no response stood at a place more than once oftener than at another${balance.most > 1 ? `; the widest difference is ${balance.most}` : ""}.` : "Nothing was ranked yet.";
  return card(
    "Place and length",
    "Without an effect, everything stands at the dashed line.",
    dots(effects, {}),
    places.length ? make("h3", "", "Mean rank by place shown, 0 best to 1 worst") : null,
    places.length ? dots(places, {}) : null,
    make("p", "mg-quiet", `${even} Slope of the length effect: ${words(bias.length_slope)}.`),
    undefinedList(effects),
  );
}
