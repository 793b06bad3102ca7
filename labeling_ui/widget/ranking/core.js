// The ranking page. Runs once per mount with `element` (its root) and `server` (the Python functions).
// Everything that reaches innerHTML was rendered and sanitised by the server; all other text goes in as text.
// The files of this folder are joined in the order that labeling_ui/app.py names, and share one scope.

const LETTERS = "ABCDEFGHI";
const GRADES = ["", "slightly better", "better", "much better"];
const CONFIDENCE = ["", "unsure", "fairly sure", "sure"];
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
const VERDICTS = { ranked: "Ranked", cannot_judge: "Cannot judge", skipped: "Skipped" };

const root = element.querySelector(".rk");
const find = (selector) => root.querySelector(selector);
const list = find(".rk-list");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

let who = ""; // the person's pseudonym: whose copies in this browser these are
let task = null; // the task as the server sent it
let levels = []; // by place shown: 0 not ranked yet, else 1 best
let grades = new Map(); // "places above|places below" -> 1..3
let flags = [];
let confidence = 0; // 0 not said
let cards = [];
let marked = 0;
let active = 0; // seconds of work
let busy = false;

const isPair = () => task?.outputs.length === 2;

// ---- nodes ---------------------------------------------------------------------------------------

function make(tag, name, ...content) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...content.filter((part) => part !== null && part !== undefined));
  return node;
}

function button(text, name, press, label) {
  const node = make("button", name, text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", press);
  return node;
}

// A button that shows its key. The key is for the eye; assistive technology reads it from aria-keyshortcuts.
function keyed(node, ...keys) {
  node.append(...keys.map((key) => hidden(make("kbd", "", key))));
  const names = { "↑": "ArrowUp", "↓": "ArrowDown", "←": "ArrowLeft", "→": "ArrowRight" };
  node.setAttribute("aria-keyshortcuts", keys.map((key) => names[key] ?? key).join("+"));
  return node;
}

function hidden(node) {
  node.setAttribute("aria-hidden", "true");
  return node;
}

// Text in which characters that cannot be seen are marked, as the server marks them in rendered text.
const UNSEEN = __UNSEEN__;

function visible(raw) {
  const text = raw.replace(/\r\n?/g, "\n");
  const parts = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    parts.append(text.slice(from, match.index));
    parts.append(make("mark", "", `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    from = match.index + match[0].length;
  }
  parts.append(text.slice(from));
  return parts;
}

// A text as it was typed, in blocks: browsers take far more than linear time to lay out a line of a million letters.
function typed(raw) {
  const pieces = raw.match(/[^]{1,2000}$|[^]{1,2000}(?<=\n)|[^]{1,2000}(?<= )|[^]{1,2000}/gu) ?? [];
  return pieces.map((piece) => make("div", "", visible(piece)));
}

// ---- the server ----------------------------------------------------------------------------------

async function ask(name, payload) {
  try {
    const answer = await server[name](payload);
    if (answer && typeof answer === "object" && "ok" in answer) return answer;
  } catch {
    // Gradio gives undefined for most of what goes wrong on the way, and throws for the rest.
  }
  return { ok: false, away: true, error: "The server cannot be reached. What you typed is kept here." };
}

// What every refusal has in common: a session that ended is opened again by the entrance, which the server knows.
function refused(answer, again = []) {
  const enter = ["Sign in", () => window.location.reload()];
  notice(answer.error, "warn", answer.signed_out ? [enter] : again);
}

// ---- what the page says --------------------------------------------------------------------------

function notice(text, kind = "info", actions = []) {
  const node = find(".rk-notice");
  node.hidden = !text;
  node.dataset.kind = kind;
  node.querySelector("p").textContent = text;
  node.querySelector(".rk-acts").replaceChildren(...actions.map(([label, press]) => button(label, "rk-act", press)));
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
  for (const node of root.querySelectorAll(".rk-submit, .rk-skip, .rk-aside button")) node.setAttribute("aria-disabled", value);
}

function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

function toTop() {
  window.scrollTo({ top: 0, behavior: calm ? "auto" : "smooth" });
}

// ---- pages ---------------------------------------------------------------------------------------

function go(view) {
  root.dataset.view = view;
  const here = ["task", "done", "feedback"].includes(view) ? "task" : view;
  for (const link of root.querySelectorAll("[data-go]")) {
    if (link.dataset.go === here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
