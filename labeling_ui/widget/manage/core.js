// The manager pages. Runs once per mount with `element` (its root) and `server` (the Python functions).
// What reaches innerHTML was rendered and sanitised by the server; every other text goes in as text.

const LETTERS = "ABCDEFGHI";
const POLL_S = 10;

const root = element.querySelector(".mg");
const find = (selector) => root.querySelector(selector);
const pageOf = (name) => find(`[data-page=${name}]`);

let view = "overview";
let round = null; // null: the server chooses
let drawnAt = 0;

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

// Put new content into a page without taking the focus away from the control that has it.
function redraw(box, ...content) {
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...content.filter((part) => part !== null && part !== undefined));
  if (key !== undefined) box.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function keyed(node, key) {
  node.dataset.key = key;
  return node;
}

function card(title, lead, ...content) {
  const node = make("section", "mg-card", make("h2", "", title));
  if (lead) node.append(make("p", "mg-lead", lead));
  node.append(...content.filter((part) => part !== null && part !== undefined));
  return node;
}

// ---- numbers -------------------------------------------------------------------------------------

const whole = (value) => Math.round(value).toLocaleString();
const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)} %`;
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

function decimal(value) {
  return Math.abs(value) >= 100 ? whole(value) : value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

function duration(seconds) {
  if (seconds < 60) return `${decimal(seconds)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// A day near this one needs no year.
function day(seconds, now) {
  const near = Math.abs(seconds - now) < 250 * 86400;
  return new Date(seconds * 1000).toLocaleDateString([], { weekday: near ? "short" : undefined, day: "numeric", month: "short", year: near ? undefined : "numeric" });
}

// A figure in words: its value, its interval, what it rests on, or why it is undefined.
function words(figure, show = decimal) {
  if (figure.value === null) return `undefined, because ${figure.reason}`;
  const range = figure.low === null ? "" : ` (${show(figure.low)} to ${show(figure.high)})`;
  return `${show(figure.value)}${range}`;
}

// ---- the server ----------------------------------------------------------------------------------

async function ask(name, payload = {}) {
  try {
    const answer = await server[name]({ round, ...payload });
    if (answer && typeof answer === "object" && "ok" in answer) {
      if (answer.signed_out) window.location.reload();
      return answer;
    }
  } catch {
    // fall through: the server is gone, or restarting
  }
  return { ok: false, error: "The server cannot be reached; what you see may be old.", away: true };
}

function notice(text, kind = "info") {
  const node = find(".mg-notice");
  node.hidden = !text;
  node.dataset.kind = kind;
  node.textContent = text;
}

function frame(answer) {
  round = answer.round;
  drawnAt = Date.now();
  find(".mg-person").textContent = answer.name;
  const choice = find(".mg-round select");
  const known = [...choice.options].map((option) => Number(option.value));
  if (String(known) !== String(answer.rounds)) {
    choice.replaceChildren(...answer.rounds.map((number) => new Option(String(number), String(number))));
  }
  choice.value = String(answer.round);
  find(".mg-round").hidden = answer.rounds.length < 2;
  find(".mg-fresh").textContent = `as of ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" })}`;
}

// ---- asking before something is lost -------------------------------------------------------------

function confirmWith(title, lines, label, act) {
  const box = find(".mg-dialog");
  const opener = document.activeElement;
  find("#mg-dialog-title").textContent = title;
  find(".mg-dialog-body").replaceChildren(...lines.map((line) => make("p", "", line)));
  const cancel = button("Keep it open", "mg-plain", () => box.close());
  const go = button(label, "mg-danger", async () => {
    box.close();
    await act();
  });
  find(".mg-dialog-acts").replaceChildren(cancel, go);
  box.addEventListener("close", () => opener?.isConnected && opener.focus(), { once: true });
  box.showModal();
  cancel.focus();
}
