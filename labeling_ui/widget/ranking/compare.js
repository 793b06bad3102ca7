// ---- the word difference of two responses --------------------------------------------------------
// The server sends parts as plain text. Deletions are struck through and insertions underlined, each with a sign: colour
// only helps.

const comparing = find(".rk-compare");
const [firstChoice, secondChoice] = comparing.querySelectorAll("select");
let compared = 0; // counts questions, so that an early answer cannot replace a later one

function openCompare(place) {
  const order = sightOrder();
  const other = order[order.indexOf(place) + 1] ?? order[order.indexOf(place) - 1];
  for (const choice of [firstChoice, secondChoice]) {
    choice.replaceChildren(...task.outputs.map((_, index) => new Option(`Response ${LETTERS[index]}`, String(index))));
  }
  [firstChoice.value, secondChoice.value] = [String(place), String(other)];
  if (!comparing.open) comparing.showModal();
  drawCompare();
}

async function drawCompare() {
  const box = comparing.querySelector(".rk-compare-text");
  const [first, second] = [Number(firstChoice.value), Number(secondChoice.value)];
  const mine = (compared += 1);
  box.replaceChildren(make("p", "rk-quiet", "Comparing…"));
  const answer = await ask("compare", { submission_id: task.submission_id, first, second });
  if (mine !== compared) return;
  if (!answer.ok) return box.replaceChildren(make("p", "rk-quiet", answer.error));
  const text = make("div", "rk-diff");
  text.dir = "auto";
  text.append(...answer.parts.map(diffPart));
  const same = answer.parts.every(([kind]) => kind === "same");
  box.replaceChildren(...(same ? [make("p", "rk-quiet", "These two are alike, word for word.")] : []), text);
  box.scrollTop = 0;
  find(".rk-legend-first").textContent = `only in ${LETTERS[first]}`;
  find(".rk-legend-second").textContent = `only in ${LETTERS[second]}`;
}

function diffPart([kind, text]) {
  if (kind === "same") return visible(text);
  const node = make(kind === "first" ? "del" : "ins", "", hidden(make("span", "rk-diff-sign", kind === "first" ? "−" : "+")));
  node.append(visible(text));
  return node;
}

firstChoice.addEventListener("change", drawCompare);
secondChoice.addEventListener("change", drawCompare);

// The keys go on where they were.
comparing.addEventListener("close", () => task && focusCard(marked));
