// The ranking widget. Runs once per mount with `element` (its root) and `server` (the Python functions).
// Everything that reaches innerHTML was rendered and sanitised by the server; all other text goes in as text.

const LETTERS = "ABCDEFGHI";
const GRADES = ["", "slightly better", "better", "much better"];
const FLAGS = [
  ["harmful", "Harmful", "h"],
  ["false", "False", "f"],
  ["off_task", "Off task", "o"],
  ["refusal", "Refusal", "r"],
  ["personal_data", "Personal data", "p"],
];
const REASONS = [
  ["upsetting", "Upsetting"],
  ["unfamiliar", "Not my field"],
  ["language", "Language"],
  ["broken", "Broken"],
  ["other", "Other"],
];
const IDLE_S = 60;
const RENEW_S = 120;

const root = element.querySelector(".rk");
const find = (selector) => root.querySelector(selector);
const list = find(".rk-list");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

let task = null; // the task as the server sent it
let levels = []; // by place shown: 0 not ranked yet, else 1 best
let grades = new Map(); // "places above|places below" -> 1..3
let flags = [];
let cards = [];
let marked = 0;
let active = 0; // seconds of work
let lastInput = 0;
let busy = false;
let undoTask = null;

// ---- the order ---------------------------------------------------------------------------------

function tiers() {
  const used = [...new Set(levels.filter((level) => level > 0))].sort((a, b) => a - b);
  return used.map((level) => levels.flatMap((value, place) => (value === level ? [place] : [])));
}

function pool() {
  return levels.flatMap((level, place) => (level === 0 ? [place] : []));
}

function setTiers(groups) {
  const filled = groups.filter((group) => group.length);
  levels = levels.map((_, place) => filled.findIndex((group) => group.includes(place)) + 1);
}

function setRank(place, rank) {
  levels[place] = rank;
  // Numbers may leave gaps while some responses wait; with the last one placed they close up.
  if (!pool().length) setTiers(tiers());
  const waiting = pool();
  changed(waiting.length ? (waiting.find((other) => other > place) ?? waiting[0]) : place);
}

function nudge(place, step) {
  const groups = tiers();
  const index = groups.findIndex((group) => group.includes(place));
  if (index < 0) groups.push([place]);
  else if (groups[index].length > 1) {
    groups[index] = groups[index].filter((other) => other !== place);
    groups.splice(step < 0 ? index : index + 1, 0, [place]);
  } else if (groups[index + step]) {
    groups[index + step].push(place);
    groups[index] = [];
  } else return;
  setTiers(groups);
  changed(place);
}

function drop(place, target) {
  const groups = tiers().map((group) => group.filter((other) => other !== place));
  if (target.tie !== undefined) groups[target.tie].push(place);
  else groups.splice(target.gap, 0, [place]);
  setTiers(groups);
  changed(place);
}

const stepKey = (above, below) => `${above.join(",")}|${below.join(",")}`;

function steps() {
  const groups = tiers();
  return groups.slice(1).map((below, index) => grades.get(stepKey(groups[index], below)) ?? 0);
}

function setStep(index, grade) {
  const groups = tiers();
  const key = stepKey(groups[index], groups[index + 1]);
  grades.set(key, grades.get(key) === grade ? 0 : grade);
  changed(marked);
}

function cycleStep() {
  const groups = tiers();
  const index = groups.findIndex((group) => group.includes(marked));
  if (index < 0 || index >= groups.length - 1) return;
  const key = stepKey(groups[index], groups[index + 1]);
  grades.set(key, ((grades.get(key) ?? 0) + 1) % 4);
  changed(marked);
}

function toggleFlag(place, flag) {
  flags[place] = flags[place].includes(flag) ? flags[place].filter((other) => other !== flag) : [...flags[place], flag];
  changed(place);
}

// ---- saving ------------------------------------------------------------------------------------

let dirty = false;
let saving = null;
let timer = 0;

function draft() {
  return {
    levels,
    strengths: steps(),
    flags,
    all_bad: find(".rk-allbad").checked,
    comment: find(".rk-comment").value,
  };
}

function changed(focus) {
  draw(focus);
  queueSave(80);
}

function queueSave(delay) {
  dirty = true;
  saved("Saving…");
  clearTimeout(timer);
  timer = setTimeout(save, delay);
}

async function save() {
  if (!task || saving) return;
  dirty = false;
  saving = ask("save", { submission_id: task.submission_id, draft: draft(), active_seconds: active });
  const answer = await saving;
  saving = null;
  if (answer.ok) {
    saved(`Draft saved ${clock(Date.now())}`);
    if (dirty) save();
  } else if (answer.gone) {
    notice(answer.error, "warn", [["Reload", () => window.location.reload()]]);
    saved("");
  } else {
    dirty = true;
    saved("Not saved, trying again…", true);
    clearTimeout(timer);
    timer = setTimeout(save, 2000);
  }
}

async function ask(name, payload) {
  try {
    const answer = await server[name](payload);
    return answer && typeof answer === "object" && "ok" in answer ? answer : { ok: false, error: "The server did not answer." };
  } catch {
    return { ok: false, error: "The server cannot be reached. Your last saved draft is safe." };
  }
}

async function send(verdict, reason = "") {
  if (!task || busy) return;
  const waiting = pool();
  if (verdict === "ranked" && waiting.length) {
    const names = waiting.map((place) => LETTERS[place]).join(", ");
    notice(`Rank every response first. Still waiting: ${names}.`, "wait");
    mark(waiting[0]);
    cards[waiting[0]].focus();
    return;
  }
  setBusy(true);
  clearTimeout(timer);
  dirty = false;
  if (saving) await saving;
  const given = steps();
  const answer = await ask("submit", {
    submission_id: task.submission_id,
    verdict,
    reason,
    ranks: verdict === "ranked" ? levels : [],
    // 0 says that nobody graded a step.
    strengths: verdict === "ranked" && given.some(Boolean) ? given.map((grade) => grade || 0) : [],
    flags: verdict === "ranked" ? flags : [],
    all_bad: find(".rk-allbad").checked,
    comment: find(".rk-comment").value,
    active_seconds: active,
  });
  setBusy(false);
  if (!answer.ok) return notice(answer.error, "warn");
  undoTask = answer.task_id;
  // What is typed next belongs to the next task's cards, not to a comment field.
  document.activeElement?.blur?.();
  show(answer.screen);
  window.scrollTo({ top: 0, behavior: calm ? "auto" : "smooth" });
  notice(answer.message, "good", [["Correct it", () => correct(undoTask)]]);
}

async function correct(taskId) {
  if (dirty) await save();
  const answer = await ask("correct", { task_id: taskId });
  if (!answer.ok) return notice(answer.error, "warn");
  show(answer.screen);
  window.scrollTo({ top: 0 });
}

async function cancelCorrection() {
  clearTimeout(timer);
  dirty = false;
  const answer = await ask("cancel", { submission_id: task.submission_id });
  if (!answer.ok) return notice(answer.error, "warn");
  show(answer.screen);
}

async function load() {
  const answer = await ask("load", {});
  if (answer.ok) return show(answer.screen);
  if (answer.signed_out) return window.location.assign("/open");
  notice(answer.error, "warn", [["Try again", load]]);
}

// ---- drawing -----------------------------------------------------------------------------------

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(text, name, press, label) {
  const node = make("button", name, text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", press);
  return node;
}

function go(view) {
  root.dataset.view = view;
  for (const link of root.querySelectorAll("[data-go]")) {
    link.toggleAttribute("data-here", link.dataset.go === (view === "done" ? "task" : view));
  }
}

function show(screen) {
  task = screen.task;
  notice("");
  drawTop(screen);
  drawHistory(screen.history);
  find(".rk-guidelines article").innerHTML = screen.guidelines;
  if (!task) return go("done");
  const kept = task.draft;
  const count = task.outputs.length;
  levels = kept.levels?.length === count ? [...kept.levels] : Array(count).fill(0);
  flags = kept.flags?.length === count ? kept.flags.map((entry) => [...entry]) : task.outputs.map(() => []);
  grades = new Map();
  const groups = tiers();
  (kept.strengths ?? []).forEach((grade, index) => {
    if (grade && groups[index + 1]) grades.set(stepKey(groups[index], groups[index + 1]), grade);
  });
  find(".rk-allbad").checked = Boolean(kept.all_bad);
  find(".rk-comment").value = kept.comment ?? "";
  active = task.active_seconds;
  closeSkip();
  drawPrompt();
  cards = task.outputs.map(card);
  list.replaceChildren();
  go("task");
  draw(pool()[0] ?? tiers().flat()[0], false);
  saved(task.resumed ? "Your draft is back" : "");
  if (task.version) {
    notice("You are correcting an earlier answer; submitting stores a new version.", "info", [["Leave it as it was", cancelCorrection]]);
  }
}

function drawTop(screen) {
  const done = screen.progress.ranked + screen.progress.cannot_judge;
  const total = done + screen.progress.available;
  find(".rk-count").textContent = `${done} done, ${screen.progress.available} left`;
  find(".rk-bar span").style.width = `${total ? (100 * done) / total : 0}%`;
  find(".rk-bar").setAttribute("aria-valuemax", total);
  find(".rk-bar").setAttribute("aria-valuenow", done);
  const name = screen.may_switch ? make("a", "", screen.name) : make("span", "", screen.name);
  if (screen.may_switch) {
    name.href = "/open";
    name.title = "Somebody else? Change the name";
  }
  find(".rk-person").replaceChildren(name);
}

function drawPrompt() {
  const box = find(".rk-prompt");
  box.replaceChildren(
    ...task.turns.map((turn) => {
      const node = make("div", "rk-turn");
      node.append(make("span", "rk-role", turn.role === "prompt" ? "Prompt" : turn.role));
      const text = make("div", "rk-text");
      text.innerHTML = turn.html;
      node.append(text);
      return node;
    }),
  );
}

function card(output, place) {
  const node = make("article", "rk-card");
  node.tabIndex = 0;
  node.dataset.place = place;
  const rail = make("div", "rk-rail");
  rail.append(make("span", "rk-rank"));
  const grip = make("span", "rk-grip", "⠿");
  grip.title = "Drag to rank";
  grip.setAttribute("aria-hidden", "true");
  grip.addEventListener("pointerdown", (event) => startDrag(event, place));
  rail.append(grip);
  const main = make("div", "rk-body");
  main.append(cardHead(node, output, place), cardText(output), cardFoot(place));
  node.append(rail, main);
  node.addEventListener("focusin", () => mark(place));
  return node;
}

function cardHead(node, output, place) {
  const head = make("div", "rk-head");
  head.append(make("span", "rk-letter", LETTERS[place]));
  const picks = make("div", "rk-picks");
  picks.setAttribute("role", "group");
  picks.setAttribute("aria-label", `Rank of response ${LETTERS[place]}`);
  for (let rank = 1; rank <= task.outputs.length; rank++) {
    const pick = button(String(rank), "rk-pick", () => setRank(place, rank), `Rank ${rank}`);
    pick.dataset.rank = rank;
    picks.append(pick);
  }
  const tools = make("div", "rk-tools");
  tools.append(
    button("↑", "rk-tool", () => nudge(place, -1), `Move ${LETTERS[place]} up`),
    button("↓", "rk-tool", () => nudge(place, 1), `Move ${LETTERS[place]} down`),
    button("plain", "rk-tool rk-plain", () => togglePlain(place), `Plain text of ${LETTERS[place]}`),
  );
  head.append(picks, tools);
  return head;
}

function cardText(output) {
  const text = make("div", "rk-text");
  text.innerHTML = output.html;
  return text;
}

function cardFoot(place) {
  const foot = make("div", "rk-foot");
  for (const [flag, label, key] of FLAGS) {
    const chip = button(label, "rk-flag", () => toggleFlag(place, flag));
    chip.title = `${label} (${key})`;
    chip.dataset.flag = flag;
    foot.append(chip);
  }
  const more = button("Show all", "rk-more", () => unfold(place));
  foot.append(more);
  return foot;
}

function togglePlain(place) {
  const text = cards[place].querySelector(".rk-text");
  const plain = text.toggleAttribute("data-plain");
  if (plain) text.textContent = task.outputs[place].text;
  else text.innerHTML = task.outputs[place].html;
  cards[place].querySelector(".rk-plain").setAttribute("aria-pressed", plain);
  measure(place);
}

function unfold(place) {
  const open = cards[place].toggleAttribute("data-open");
  cards[place].querySelector(".rk-more").textContent = open ? "Show less" : "Show all";
}

function measure(place) {
  const text = cards[place].querySelector(".rk-text");
  const open = cards[place].hasAttribute("data-open");
  cards[place].toggleAttribute("data-long", open || text.scrollHeight > text.clientHeight + 4);
}

function draw(focus, animate = true) {
  const before = cards.map((node) => (node.isConnected ? node.getBoundingClientRect().top : null));
  const held = root.contains(document.activeElement) ? document.activeElement : null;
  const groups = tiers();
  const graded = steps();
  const rows = [];
  groups.forEach((group, index) => {
    rows.push(tierRow(group, index, groups.length));
    if (index < groups.length - 1) rows.push(stepRow(group, groups[index + 1], index, graded[index]));
  });
  const waiting = pool();
  if (waiting.length) rows.push(poolRow(waiting, groups.length));
  list.replaceChildren(...rows);
  cards.forEach((node, place) => drawCard(node, place, groups));
  drawSummary(groups, waiting);
  mark(focus);
  if (held && held !== document.body) {
    // Moving a node drops its focus: give it back, to the same control where it was one inside a card.
    const control = held.closest(".rk-card") && !held.classList.contains("rk-card") && held.closest(".rk-card") === cards[focus];
    (control ? held : held.closest(".rk-list") || held.isConnected === false ? cards[focus] : held).focus({ preventScroll: true });
  }
  if (animate) glide(before);
  if (cards[focus] && held?.closest(".rk-list")) keepInView(cards[focus]);
  if (animate) say(summaryText(groups, waiting));
}

function tierRow(group, index, count) {
  const row = make("li", "rk-tier");
  row.dataset.tier = index;
  if (group.length > 1) row.append(make("span", "rk-tied", `${group.length} tied`));
  row.setAttribute("aria-label", `Rank ${index + 1} of ${count}`);
  row.append(...group.map((place) => cards[place]));
  return row;
}

function stepRow(above, below, index, grade) {
  const row = make("li", "rk-step");
  const names = (group) => group.map((place) => LETTERS[place]).join(" = ");
  row.append(make("span", "rk-step-names", `${names(above)} over ${names(below)}`));
  const choices = make("div", "rk-choices");
  choices.setAttribute("role", "group");
  choices.setAttribute("aria-label", `How much better: ${names(above)} over ${names(below)}`);
  for (const value of [1, 2, 3]) {
    const choice = button(GRADES[value], "rk-choice", () => setStep(index, value));
    choice.setAttribute("aria-pressed", grade === value);
    choices.append(choice);
  }
  row.append(choices);
  return row;
}

function poolRow(waiting, ranked) {
  const row = make("li", "rk-pool");
  row.append(make("span", "rk-pool-title", ranked ? "Still to rank" : "To rank"));
  row.append(...waiting.map((place) => cards[place]));
  return row;
}

function drawCard(node, place, groups) {
  const level = levels[place];
  const tied = groups.some((group) => group.length > 1 && group.includes(place));
  node.toggleAttribute("data-ranked", level > 0);
  node.querySelector(".rk-rank").textContent = level || "·";
  const state = level ? `rank ${level}${tied ? ", tied" : ""}` : "not ranked";
  node.setAttribute("aria-label", `Response ${LETTERS[place]}, ${state}`);
  for (const pick of node.querySelectorAll(".rk-pick")) {
    pick.setAttribute("aria-pressed", Number(pick.dataset.rank) === level);
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
  if (!waiting.length && find(".rk-notice").dataset.kind === "wait") notice("");
  find(".rk-submit").toggleAttribute("data-ready", !waiting.length);
  find(".rk-submit-label").textContent = task.version ? "Submit correction" : "Submit";
  find(".rk-hint-text").textContent = waiting.length
    ? "Give each response a rank: 1 is best, the same number is a tie. Press the numbers, or drag."
    : "All ranked. Move a response with Alt and an arrow key, or drag it; grade the steps where you can.";
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

function drawHistory(rows) {
  const box = find(".rk-history ol");
  box.replaceChildren(...rows.map(historyRow));
  if (!rows.length) box.append(make("li", "rk-none", "Nothing yet."));
}

function historyRow(row) {
  const node = make("li", "rk-past");
  const words = { ranked: "Ranked", cannot_judge: "Cannot judge", skipped: "Skipped" };
  const groups = [...new Set(row.ranks)].sort().map((rank) => row.ranks.flatMap((value, place) => (value === rank ? [LETTERS[place]] : [])).join(" = "));
  const facts = make("span", "rk-facts", `${new Date(row.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`);
  if (row.version > 1) facts.append(` · version ${row.version}`);
  if (row.surplus) facts.append(" · kept, not counted");
  const open = button("Correct", "rk-correct", () => correct(row.task_id), `Correct the answer to: ${row.excerpt}`);
  const text = make("div", "rk-past-text");
  text.append(make("span", "rk-excerpt", row.excerpt), facts);
  node.append(text, make("span", `rk-verdict rk-was-${row.verdict}`, groups.join(" > ") || words[row.verdict]), open);
  return node;
}

function notice(text, kind = "info", actions = []) {
  const node = find(".rk-notice");
  node.hidden = !text;
  node.dataset.kind = kind;
  node.replaceChildren(make("span", "", text), ...actions.map(([label, press]) => button(label, "rk-act", press)));
}

function saved(text, failed = false) {
  find(".rk-saved").textContent = text;
  find(".rk-saved").toggleAttribute("data-failed", failed);
}

function say(text) {
  find(".rk-live").textContent = text;
}

function setBusy(value) {
  busy = value;
  root.toggleAttribute("data-busy", value);
}

function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

// ---- dragging: pointer events, so that touch works; the grip only, so that a phone can still scroll ----

let drag = null;

function startDrag(event, place) {
  if (event.button > 0) return;
  event.preventDefault();
  const node = cards[place];
  node.focus({ preventScroll: true });
  drag = { place, node, y: event.clientY, scroll: window.scrollY, target: null, pointer: event.clientY };
  node.setAttribute("data-dragged", "");
  root.setAttribute("data-dragging", "");
  drag.frame = requestAnimationFrame(followDrag);
  window.addEventListener("pointermove", moveDrag);
  window.addEventListener("pointerup", endDrag);
  window.addEventListener("pointercancel", cancelDrag);
}

function moveDrag(event) {
  drag.pointer = event.clientY;
}

function followDrag() {
  if (!drag) return;
  const edge = 70;
  if (drag.pointer < edge) window.scrollBy(0, -12);
  if (drag.pointer > window.innerHeight - edge) window.scrollBy(0, 12);
  const shift = drag.pointer - drag.y + window.scrollY - drag.scroll;
  drag.node.style.transform = `translateY(${shift}px) scale(.985)`;
  aim();
  drag.frame = requestAnimationFrame(followDrag);
}

function aim() {
  const rows = [...list.querySelectorAll(".rk-tier")];
  let target = { gap: rows.length };
  for (const row of rows) {
    const box = row.getBoundingClientRect();
    const index = Number(row.dataset.tier);
    const alone = row.children.length === 1 && row.contains(drag.node);
    const margin = Math.min(box.height * 0.25, 60);
    if (drag.pointer < box.top + margin) {
      target = { gap: index };
      break;
    }
    if (drag.pointer <= box.bottom - margin) {
      target = alone ? null : { tie: index };
      break;
    }
  }
  drag.target = target;
  for (const row of list.children) row.removeAttribute("data-aim");
  if (!target) return;
  if (target.tie !== undefined) rows[target.tie].dataset.aim = "tie";
  else if (rows[target.gap]) rows[target.gap].dataset.aim = "before";
  else if (rows.length) rows[rows.length - 1].dataset.aim = "after";
  else list.lastElementChild.dataset.aim = "before";
}

function stopDrag() {
  cancelAnimationFrame(drag.frame);
  window.removeEventListener("pointermove", moveDrag);
  window.removeEventListener("pointerup", endDrag);
  window.removeEventListener("pointercancel", cancelDrag);
  drag.node.style.transform = "";
  drag.node.removeAttribute("data-dragged");
  root.removeAttribute("data-dragging");
  for (const row of list.children) row.removeAttribute("data-aim");
  const ended = drag;
  drag = null;
  return ended;
}

function endDrag() {
  const moved = Math.abs(drag.pointer - drag.y) > 5;
  if (moved) aim();
  const ended = stopDrag();
  if (moved && ended.target) drop(ended.place, ended.target);
}

function cancelDrag() {
  stopDrag();
}

// ---- keys, buttons, time -------------------------------------------------------------------------

function sightOrder() {
  return [...list.querySelectorAll(".rk-card")].map((node) => Number(node.dataset.place));
}

function onKey(event) {
  if (root.dataset.view !== "task" || !task || !element.isConnected) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    send("ranked");
    return;
  }
  if (drag && event.key === "Escape") return cancelDrag();
  if (event.key === "Escape" && event.target === find(".rk-comment")) return focusCard(marked);
  if (event.ctrlKey || event.metaKey || event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  const act = keyAction(event);
  if (!act) return;
  event.preventDefault();
  act();
}

function keyAction(event) {
  const up = event.key === "ArrowUp";
  if (up || event.key === "ArrowDown") {
    if (event.altKey) return () => focusThen(() => nudge(marked, up ? -1 : 1));
    const order = sightOrder();
    const next = order[order.indexOf(marked) + (up ? -1 : 1)];
    return next === undefined ? () => {} : () => focusCard(next);
  }
  if (event.altKey) return null;
  const rank = Number(event.key);
  if (rank >= 1 && rank <= task.outputs.length) return () => focusThen(() => setRank(marked, rank));
  if (event.key === "b") return () => find(".rk-allbad").click();
  if (event.key === "s") return cycleStep;
  if (event.key === "x") return () => unfold(marked);
  if (event.key === "t") return () => togglePlain(marked);
  const flag = FLAGS.find(([, , key]) => key === event.key);
  return flag ? () => toggleFlag(marked, flag[0]) : null;
}

function focusThen(act) {
  cards[marked]?.focus({ preventScroll: true });
  act();
}

function focusCard(place) {
  mark(place);
  cards[place].focus({ preventScroll: true });
  keepInView(cards[place]);
}

function closeSkip() {
  find(".rk-skip").hidden = true;
  find("[data-act=skip]").setAttribute("aria-expanded", "false");
}

const acts = {
  submit: () => send("ranked"),
  cannot: () => send("cannot_judge"),
  skip: () => {
    const box = find(".rk-skip");
    box.hidden = !box.hidden;
    find("[data-act=skip]").setAttribute("aria-expanded", String(!box.hidden));
  },
  reload: load,
};

root.addEventListener("click", (event) => {
  const target = event.target.closest("[data-act], [data-go]");
  if (target?.dataset.act) acts[target.dataset.act]();
  if (target?.dataset.go) {
    if (find(".rk-notice").dataset.kind === "good") notice("");
    go(target.dataset.go === "task" && !task ? "done" : target.dataset.go);
  }
});
find(".rk-allbad").addEventListener("change", () => queueSave(80));
find(".rk-comment").addEventListener("input", () => queueSave(400));
find(".rk-reasons").append(...REASONS.map(([reason, label]) => button(label, "rk-reason", () => send("skipped", reason))));

document.addEventListener("keydown", onKey);
for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
  document.addEventListener(kind, () => (lastInput = Date.now()), { passive: true });
}
document.addEventListener("visibilitychange", () => document.hidden && dirty && save());
window.addEventListener("resize", () => cards.forEach((node, place) => node.isConnected && measure(place)));

let sinceRenewal = 0;
const pulse = setInterval(() => {
  if (!element.isConnected) {
    clearInterval(pulse);
    document.removeEventListener("keydown", onKey);
    return;
  }
  const working = task && !document.hidden && Date.now() - lastInput < IDLE_S * 1000;
  if (!working) return;
  active += 1;
  sinceRenewal += 1;
  if (sinceRenewal >= RENEW_S) {
    sinceRenewal = 0;
    queueSave(0);
  }
}, 1000);

load();
