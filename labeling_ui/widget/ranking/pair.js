// ---- two responses: side by side, one key each ---------------------------------------------------

function choosePair(place) {
  levels = place === null ? [1, 1] : [place === 0 ? 1 : 2, place === 0 ? 2 : 1];
  changed(place ?? marked);
}

function pairPick(place) {
  const pick = button(`${LETTERS[place]} is better`, "rk-pick", () => choosePair(place));
  return keyed(pick, place === 0 ? "←" : "→");
}

function pairRow() {
  const row = make("li", "rk-pair");
  const tied = levels[0] > 0 && levels[0] === levels[1];
  const equal = keyed(button("Equal", "rk-choice rk-equal", () => choosePair(null)), "=");
  equal.setAttribute("aria-pressed", tied);
  equal.dataset.again = "equal";
  const verdict = make("div", "rk-verdict-bar", equal);
  if (pool().length === 0 && !tied) {
    const better = levels[0] === 1 ? 0 : 1;
    const label = `How much better: ${LETTERS[better]} over ${LETTERS[1 - better]}`;
    verdict.append(gradeChoices(label, 0, steps()[0], ["1", "2", "3"]));
  }
  row.append(make("div", "rk-both", ...cards), verdict);
  return row;
}

function pairAction(key) {
  if (key === "ArrowLeft") return () => choosePair(0);
  if (key === "ArrowRight") return () => choosePair(1);
  if (key === "=" || key === "e") return () => choosePair(null);
  const grade = Number(key);
  return grade >= 1 && grade <= 3 ? () => setStep(0, grade) : null;
}
