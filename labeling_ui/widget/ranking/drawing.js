// ---- drawing the task ----------------------------------------------------------------------------

function show(screen) {
  unplan();
  who = screen.who;
  task = screen.task;
  [dirty, stale, sureAsShown] = [false, false, false];
  notice("");
  sweepCopies();
  drawTop(screen);
  drawGuidelines(screen.guidelines);
  closeDialogs();
  if (!task) return showNone(screen.none);
  revision = task.revision;
  const copy = takeUpCopy();
  cards = task.outputs.map(card);
  list.replaceChildren();
  root.toggleAttribute("data-pair", isPair());
  fill(task.draft);
  active = task.active_seconds;
  closeSkip();
  drawPrompt();
  drawTraining(screen.progress.training_left);
  go("task");
  draw(pool()[0] ?? tiers().flat()[0], false);
  reachable(find(".rk-prompt"));
  const resumed = levels.some(Boolean) || task.draft.comment || task.draft.edit;
  saved(resumed && !task.version ? "Your draft is back" : "");
  if (task.version) {
    notice("You are correcting an earlier answer; submitting stores a new version.", "info", [["Leave it as it was", cancelCorrection]]);
  }
  if (copy === "mine") touched();
  if (copy === "theirs") offerCopy();
}

function fill(kept) {
  const count = task.outputs.length;
  levels = kept.levels?.length === count ? [...kept.levels] : Array(count).fill(0);
  flags = kept.flags?.length === count ? kept.flags.map((entry) => [...entry]) : task.outputs.map(() => []);
  grades = new Map();
  const groups = tiers();
  (kept.strengths ?? []).forEach((grade, index) => {
    if (grade && groups[index + 1]) grades.set(stepKey(groups[index], groups[index + 1]), grade);
  });
  confidence = kept.confidence ?? 0;
  find(".rk-allbad").checked = Boolean(kept.all_bad);
  find(".rk-comment").value = kept.comment ?? "";
  fillBetter(kept);
}

const NONE = {
  done: ["Nothing left to rank", "You have answered everything there is for you. Thank you."],
  paused: ["You are paused", "Whoever manages the labels has paused you. Ask them; your answers are all kept."],
  limit: ["You have reached your limit", "You have done as many tasks as were planned for you. Thank you."],
};

function showNone(why) {
  const [title, text] = NONE[why] ?? NONE.done;
  find(".rk-done").dataset.why = why;
  find(".rk-done h2").textContent = title;
  find(".rk-done p").textContent = text;
  go("done");
}

function drawTop(screen) {
  const done = screen.progress.ranked + screen.progress.cannot_judge;
  // A training item in one's hands is no task.
  const left = screen.progress.available - (screen.task?.training ? 1 : 0);
  const total = done + left;
  find(".rk-count").textContent = `${done} done, ${left} left`;
  find(".rk-bar span").style.width = `${total ? (100 * done) / total : 0}%`;
  find(".rk-bar").setAttribute("aria-valuemax", total);
  find(".rk-bar").setAttribute("aria-valuenow", done);
  const name = make("a", "", screen.name);
  name.href = screen.may_switch ? "/open" : "/password";
  name.title = screen.may_switch ? "Somebody else? Change the name" : "Change your password";
  find(".rk-person").replaceChildren(name);
  find(".rk-manage").hidden = !screen.manages;
}

function draw(focus, animate = true) {
  const before = cards.map((node) => (node.isConnected ? node.getBoundingClientRect().top : null));
  const held = root.contains(document.activeElement) ? document.activeElement : null;
  const groups = tiers();
  const waiting = pool();
  list.replaceChildren(...(isPair() ? [pairRow()] : rankRows(groups, waiting)));
  cards.forEach((node, place) => drawCard(node, place, groups));
  drawSummary(groups, waiting);
  drawConfidence();
  mark(focus);
  if (held && held !== document.body) giveFocusBack(held, focus);
  if (animate) glide(before);
  if (cards[focus] && held?.closest(".rk-list")) keepInView(cards[focus]);
  if (animate) say(summaryText(groups, waiting));
}

// Moving a node drops its focus: give it back, to the same control where it was one inside a card.
function giveFocusBack(held, focus) {
  const inside = held.closest(".rk-card") && !held.classList.contains("rk-card") && held.closest(".rk-card") === cards[focus];
  const lost = held.closest(".rk-list") || held.isConnected === false;
  const again = held.dataset.again && list.querySelector(`[data-again="${held.dataset.again}"]`);
  (inside ? held : again || (lost ? cards[focus] : held)).focus({ preventScroll: true });
}

function rankRows(groups, waiting) {
  const graded = steps();
  const rows = [];
  groups.forEach((group, index) => {
    rows.push(tierRow(group, index, groups.length));
    if (index < groups.length - 1) rows.push(stepRow(group, groups[index + 1], index, graded[index]));
  });
  if (waiting.length) {
    const title = make("span", "rk-pool-title", groups.length ? "Still to rank" : "To rank");
    rows.push(make("li", "rk-pool", title, ...waiting.map((place) => cards[place])));
  }
  return rows;
}

function tierRow(group, index, count) {
  const row = make("li", "rk-tier");
  row.dataset.tier = index;
  row.setAttribute("aria-label", `Rank ${index + 1} of ${count}`);
  if (group.length > 1) row.append(make("span", "rk-tied", `${group.length} tied`));
  row.append(...group.map((place) => cards[place]));
  return row;
}

function stepRow(above, below, index, grade) {
  const names = (group) => group.map((place) => LETTERS[place]).join(" = ");
  const choices = gradeChoices(`How much better: ${names(above)} over ${names(below)}`, index, grade);
  choices.append(hidden(make("kbd", "", "s")));
  return make("li", "rk-step", make("span", "rk-step-names", `${names(above)} over ${names(below)}`), choices);
}

function gradeChoices(label, index, grade, keys = []) {
  const choices = make("div", "rk-choices");
  choices.setAttribute("role", "group");
  choices.setAttribute("aria-label", label);
  for (const value of [1, 2, 3]) {
    const choice = button(GRADES[value], "rk-choice", () => setStep(index, value));
    choice.setAttribute("aria-pressed", grade === value);
    choice.dataset.again = `step-${index}-${value}`;
    choices.append(keys.length ? keyed(choice, keys[value - 1]) : choice);
  }
  return choices;
}

function drawCard(node, place, groups) {
  const level = levels[place];
  const tied = groups.some((group) => group.length > 1 && group.includes(place));
  node.toggleAttribute("data-ranked", level > 0);
  node.querySelector(".rk-rank").textContent = level || "·";
  const state = level ? `rank ${level}${tied ? ", tied" : ""}` : "not ranked";
  node.setAttribute("aria-label", `Response ${LETTERS[place]}, ${state}`);
  for (const pick of node.querySelectorAll(".rk-pick")) {
    const pressed = isPair() ? levels[place] === 1 && levels[1 - place] === 2 : Number(pick.dataset.rank) === level;
    pick.setAttribute("aria-pressed", pressed);
  }
  for (const chip of node.querySelectorAll(".rk-flag")) {
    chip.setAttribute("aria-pressed", flags[place].includes(chip.dataset.flag));
  }
  measure(place);
}

function summaryText(groups, waiting) {
  const order = groups.map((group) => group.map((place) => LETTERS[place]).join(" = ")).join(" > ");
  return waiting.length ? `${order || "Nothing ranked"}; ${waiting.length} to go` : order;
}

function drawSummary(groups, waiting) {
  const line = find(".rk-summary");
  line.replaceChildren();
  groups.forEach((group, index) => {
    if (index) line.append(make("span", "rk-sign", ">"));
    group.forEach((place, inner) => {
      if (inner) line.append(make("span", "rk-sign", "="));
      line.append(make("span", "rk-chip", LETTERS[place]));
    });
  });
  for (const place of waiting) line.append(make("span", "rk-chip rk-open", LETTERS[place]));
  if (!waiting.length && !sureAsShown && find(".rk-notice").dataset.kind === "wait") notice("");
  find(".rk-submit").toggleAttribute("data-ready", !waiting.length);
  find(".rk-submit-label").textContent = task.version ? "Submit correction" : "Submit";
  find(".rk-hint-text").textContent = hintText(waiting);
}

function hintText(waiting) {
  if (isPair()) return "Which is better? Press the left or right arrow, or = where they are equal.";
  return waiting.length
    ? "Give each response a rank: 1 is best, the same number is a tie. Press the numbers, or drag."
    : "All ranked. Move a response with Alt and an arrow key, or drag it; grade the steps where you can.";
}

function drawConfidence() {
  find(".rk-sure").querySelectorAll("button").forEach((choice, index) => choice.setAttribute("aria-pressed", confidence === index + 1));
}

function mark(place) {
  marked = place ?? 0;
  cards.forEach((node, other) => node.toggleAttribute("data-marked", other === marked));
}

function keepInView(node) {
  const box = node.getBoundingClientRect();
  const top = find(".rk-top").offsetHeight + 12;
  if (box.top < top || box.top > window.innerHeight - 160) {
    window.scrollTo({ top: window.scrollY + box.top - top - 8, behavior: calm ? "auto" : "smooth" });
  }
}

function glide(before) {
  if (calm) return;
  cards.forEach((node, place) => {
    if (before[place] === null || node.hasAttribute("data-dragged")) return;
    const shift = before[place] - node.getBoundingClientRect().top;
    if (Math.abs(shift) > 1) {
      node.animate([{ transform: `translateY(${shift}px)` }, { transform: "none" }], { duration: 220, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  });
}
