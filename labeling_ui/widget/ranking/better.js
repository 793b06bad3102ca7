// ---- a better answer, begun from one of the responses --------------------------------------------

const MAX_EDIT = __MAX_EDIT__;
const better = find(".rk-better");
const betterOf = find(".rk-better-of");
const betterText = find(".rk-edit");

find(".rk-comment").maxLength = __MAX_COMMENT__;
betterText.maxLength = MAX_EDIT;

function betterDraft() {
  if (better.hidden) return { edit_of: null, edit: "" };
  return { edit_of: Number(betterOf.value), edit: betterText.value };
}

// What was not changed is no better answer.
function betterAnswer() {
  const { edit_of: place, edit } = betterDraft();
  const changedText = place !== null && edit.trim() && edit !== asTyped(task.outputs[place].text);
  return changedText ? { edit_of: place, edit } : { edit_of: null, edit: "" };
}

// A text area knows one kind of line end.
const asTyped = (text) => text.replace(/\r\n?/g, "\n");

function fillBetter(kept) {
  betterOf.replaceChildren(...task.outputs.map((_, place) => new Option(`Response ${LETTERS[place]}`, String(place))));
  const has = kept.edit_of !== null && kept.edit_of !== undefined && kept.edit_of < task.outputs.length;
  better.hidden = !has;
  if (has) betterOf.value = String(kept.edit_of);
  betterText.value = has ? (kept.edit ?? "") : "";
  betterOf.dataset.from = betterOf.value;
}

function beginBetter(place) {
  if (better.hidden) takeText(place);
  betterText.focus({ preventScroll: true });
  better.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
}

function takeText(place) {
  const text = asTyped(task.outputs[place].text);
  if (text.length > MAX_EDIT) return notice(`Response ${LETTERS[place]} is too long to be edited here.`, "warn");
  better.hidden = false;
  betterOf.value = String(place);
  betterOf.dataset.from = betterOf.value;
  betterText.value = text;
  touched();
}

// Beginning anew from another response replaces what was written: that takes a second click.
betterOf.addEventListener("change", () => {
  const [from, to] = [Number(betterOf.dataset.from), Number(betterOf.value)];
  if (betterText.value === asTyped(task.outputs[from].text)) return takeText(to);
  betterOf.value = String(from);
  notice(`Begin anew from ${LETTERS[to]}? What you wrote is replaced.`, "warn", [
    [`Begin from ${LETTERS[to]}`, () => (takeText(to), notice(""))],
    ["Keep what I wrote", () => notice("")],
  ]);
});

function dropBetter() {
  better.hidden = true;
  betterText.value = "";
  touched();
  focusCard(marked);
}

betterText.addEventListener("input", touched);
