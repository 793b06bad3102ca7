// ---- one response in full view -------------------------------------------------------------------

const reading = find(".rk-reading");
let read = 0;

function openReading(place) {
  read = place;
  drawReading();
  if (!reading.open) reading.showModal();
  reading.querySelector(".rk-reading-text").focus({ preventScroll: true });
}

function drawReading() {
  const box = reading.querySelector(".rk-reading-text");
  find("#rk-reading-title").textContent = `Response ${LETTERS[read]}`;
  reading.querySelector(".rk-reading-rank").textContent = levels[read] ? `rank ${levels[read]}` : "not ranked";
  reading.querySelector(".rk-reading-prompt").replaceChildren(...[...find(".rk-prompt").children].map((turn) => turn.cloneNode(true)));
  const text = make("div", "rk-text");
  text.dir = "auto";
  const plain = reading.hasAttribute("data-plain");
  text.toggleAttribute("data-plain", plain);
  if (plain) text.append(...typed(task.outputs[read].text));
  else text.innerHTML = task.outputs[read].html;
  box.replaceChildren(text);
  box.scrollTop = 0;
  reachable(text);
}

function turnPage(step) {
  const order = sightOrder();
  const next = order[(order.indexOf(read) + step + order.length) % order.length];
  read = next;
  mark(next);
  drawReading();
}

function readingKey(event) {
  const rank = Number(event.key);
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") return () => turnPage(event.key === "ArrowLeft" ? -1 : 1);
  if (event.key === "v") return () => reading.close();
  if (event.key === "t") return () => (reading.toggleAttribute("data-plain"), drawReading());
  if (!isPair() && rank >= 1 && rank <= task.outputs.length) {
    return () => {
      setRank(read, rank);
      drawReading();
    };
  }
  return null;
}

reading.addEventListener("close", () => task && focusCard(read));

function closeDialogs() {
  for (const dialog of root.querySelectorAll("dialog[open]")) dialog.close();
}
