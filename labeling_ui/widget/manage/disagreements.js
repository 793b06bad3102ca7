
// ---- disagreements -------------------------------------------------------------------------------

let disputePage = 0;
let shownTasks = "open"; // "open", "decided", or "model": where the reward model differs from people
let openTask = null;
let decision = []; // by candidate: 0 not ranked yet, else 1 best

function drawDisagreements(answer) {
  const page = pageOf("disagreements");
  const pages = Math.max(1, Math.ceil(answer.total / 10));
  const tabs = make("div", "mg-tabs", tab("To decide", "open"), tab("Decided", "decided"), answer.judged_by_model ? tab("Reward model", "model") : null);
  const list = make("ol", "mg-disputes", ...answer.tasks.map(disputeRow));
  const [lead, none] = {
    open: [`${plural(answer.total, "task")} ordered differently by different people, the least agreed upon first. A decision stands in place of all their rankings.`, "Nobody disagrees: there is no task that two people ordered differently."],
    decided: ["What you and other managers decided. A new decision of yours replaces your last one.", "Nothing was decided yet."],
    model: [`${plural(answer.total, "task")} that the reward model had not learned from and orders otherwise than people did, the farthest apart first. Who is right?`, "The reward model and the people agree."],
  }[shownTasks];
  redraw(page, card("Disagreements", lead, tabs, answer.tasks.length ? list : make("p", "mg-quiet", none), pages > 1 ? pager(pages) : null), make("div", "mg-dispute"));
  const open = answer.tasks.find((task) => task.task_id === openTask);
  if (open) showTask(open, false);
}

function tab(label, tasks) {
  const node = keyed(button(label, "mg-tab", () => {
    [shownTasks, disputePage, openTask] = [tasks, 0, null];
    load();
  }), `tab-${label}`);
  node.setAttribute("aria-pressed", String(shownTasks === tasks));
  return node;
}

function pager(pages) {
  const turn = (step, label) => {
    const node = keyed(button(label, "mg-plain", () => {
      [disputePage, openTask] = [disputePage + step, null];
      load();
    }), `page-${label}`);
    node.disabled = disputePage + step < 0 || disputePage + step >= pages;
    return node;
  };
  return make("div", "mg-pager", turn(-1, "Earlier"), make("span", "", `${disputePage + 1} of ${pages}`), turn(1, "Later"));
}

function disputeRow(task) {
  const chosen = task.task_id === openTask;
  const node = make("li", "");
  const press = keyed(button("", "mg-dispute-row", () => showTask(task, true)), `task-${task.task_id}`);
  press.setAttribute("aria-expanded", String(chosen));
  const judged = task.difference !== null;
  const amount = judged ? task.difference : task.agreement;
  const share = amount === null ? "–" : percent(amount);
  const bar = make("i", "mg-amount");
  bar.style.width = percent(amount ?? 0).replace(" ", "");
  press.append(make("span", "mg-excerpt", task.excerpt), make("span", "mg-amounts", bar), make("span", "mg-note", `${plural(task.voices.length, "ranking")}, ${share} ${judged ? "apart" : "agree"}`));
  node.append(press);
  return node;
}

function showTask(task, scroll) {
  openTask = task.task_id;
  decision = task.decision.length ? [...task.decision] : task.outputs.map(() => 0);
  for (const row of root.querySelectorAll(".mg-dispute-row")) row.setAttribute("aria-expanded", String(row.dataset.key === `task-${task.task_id}`));
  const box = find(".mg-dispute");
  const title = make("h2", "", task.decision.length ? "Decided" : "To decide");
  title.tabIndex = -1;
  redraw(box, make("section", "mg-card", title, promptOf(task), rankTable(task), make("div", "mg-outputs", ...task.outputs.map((output, place) => outputCard(task, output, place))), commentsOf(task), deciding(task)));
  if (scroll) {
    title.focus({ preventScroll: true });
    box.scrollIntoView({ behavior: "smooth", block: "start" });
  }
}

function promptOf(task) {
  const box = make("div", "mg-prompt");
  for (const turn of task.turns) {
    const body = make("div", "mg-text");
    body.innerHTML = turn.html; // rendered by the server
    box.append(make("span", "mg-role", turn.role), body);
  }
  return box;
}

// Annotators below each other, outputs beside each other; the deeper a cell, the better the rank.
function rankTable(task) {
  const head = make("tr", "", make("th", "", make("span", "mg-hidden", "By")), ...task.outputs.map((_, place) => make("th", "", LETTERS[place])));
  const rows = task.voices.map((voice) => rankRow(voice.pseudonym, voice.ranks, `accuracy ${voice.accuracy.toFixed(2)}${voice.all_bad ? ", none acceptable" : ""}${voice.confidence ? `, ${["", "unsure", "fairly sure", "sure"][voice.confidence]}` : ""}`));
  if (task.consensus.length) rows.push(rankRow("together", task.consensus, "weighted by accuracy", "mg-together"));
  if (task.scores.length) rows.push(rankRow("reward model", ranksOf(task.scores), `scores ${task.scores.map((score) => score.toFixed(2)).join(", ")}`, "mg-together"));
  if (task.decision.length) rows.push(rankRow("decision", task.decision, "a manager's", "mg-together"));
  for (const cell of head.children) cell.scope = "col";
  return make("div", "mg-scroll", make("table", "mg-ranks", make("thead", "", head), make("tbody", "", ...rows)));
}

function ranksOf(scores) {
  const levels = [...new Set(scores)].sort((one, two) => two - one);
  return scores.map((score) => levels.indexOf(score) + 1);
}

function rankRow(name, ranks, note, look = "") {
  const most = Math.max(2, ...ranks);
  const title = make("th", "", make("b", "", name), make("span", "mg-note", note));
  title.scope = "row";
  const cells = ranks.map((rank) => {
    const cell = make("td", "", String(rank));
    cell.style.setProperty("--depth", String(1 - (rank - 1) / (most - 1)));
    return cell;
  });
  return make("tr", look, title, ...cells);
}

function outputCard(task, output, place) {
  const body = make("div", "mg-text");
  body.innerHTML = output.html; // rendered by the server
  body.tabIndex = 0;
  body.setAttribute("role", "region");
  body.setAttribute("aria-label", `Output ${LETTERS[place]}`);
  const flags = [...new Set(task.voices.flatMap((voice) => voice.flags[place] ?? []))];
  const picks = make("div", "mg-picks");
  picks.setAttribute("role", "group");
  picks.setAttribute("aria-label", `Rank of output ${LETTERS[place]}`);
  for (let rank = 1; rank <= task.outputs.length; rank += 1) {
    const pick = keyed(button(String(rank), "mg-pick", () => {
      decision[place] = rank;
      markPicks();
    }), `pick-${place}-${rank}`);
    pick.setAttribute("aria-pressed", String(decision[place] === rank));
    picks.append(pick);
  }
  const head = make("div", "mg-output-head", make("b", "", LETTERS[place]), picks);
  const foot = flags.length ? make("p", "mg-note mg-marked", `flagged: ${flags.join(", ").replaceAll("_", " ")}`) : null;
  return make("article", "mg-output", head, body, foot);
}

function markPicks() {
  for (const pick of root.querySelectorAll(".mg-pick")) {
    const [, place, rank] = pick.dataset.key.split("-").map(Number);
    pick.setAttribute("aria-pressed", String(decision[place] === rank));
  }
  find(".mg-decide").toggleAttribute("data-ready", decision.every((rank) => rank > 0));
}

function commentsOf(task) {
  const said = task.voices.filter((voice) => voice.comment);
  if (!said.length) return null;
  return make("ul", "mg-comments", ...said.map((voice) => make("li", "", make("b", "", voice.pseudonym), make("span", "", voice.comment))));
}

function deciding(task) {
  const field = make("textarea", "mg-why");
  Object.assign(field, { rows: 2, maxLength: 4000, value: task.decision_comment });
  const store = keyed(button("Store decision", "mg-decide", () => decide(task, field.value)), "decide");
  store.toggleAttribute("data-ready", decision.every((rank) => rank > 0));
  return make("div", "mg-deciding", make("label", "mg-field", make("span", "", "Why (optional; kept with the decision)"), field), store);
}

async function decide(task, comment) {
  const missing = decision.flatMap((rank, place) => (rank ? [] : [LETTERS[place]]));
  if (missing.length) return notice(`Rank every output first. Still waiting: ${missing.join(", ")}.`, "warn");
  // Equal numbers are ties, and gaps close up.
  const levels = [...new Set(decision)].sort((one, two) => one - two);
  const ranks = decision.map((rank) => levels.indexOf(rank) + 1);
  const answer = await ask("decide", { task_id: task.task_id, ranks, comment });
  if (!answer.ok) return notice(answer.error, "warn");
  openTask = null;
  await load();
  notice("Decision stored.", "good");
  pageOf("disagreements").querySelector(".mg-dispute-row, .mg-tab")?.focus();
  return undefined;
}
