// ---- the prompt and the cards --------------------------------------------------------------------

function drawPrompt() {
  find(".rk-prompt").replaceChildren(
    ...task.turns.map((turn) => {
      const node = make("div", "rk-turn");
      node.dataset.role = turn.role;
      const text = make("div", "rk-text");
      text.dir = "auto";
      text.innerHTML = turn.html;
      node.append(make("span", "rk-role", turn.role === "prompt" ? "Prompt" : turn.role), text);
      return node;
    }),
  );
  find(".rk-prompt").scrollTop = 0;
}

function card(output, place) {
  const node = make("article", "rk-card");
  node.tabIndex = 0;
  node.dataset.place = place;
  const rail = make("div", "rk-rail", make("span", "rk-rank"));
  const grip = hidden(make("span", "rk-grip", "⠿"));
  grip.title = "Drag to rank";
  grip.addEventListener("pointerdown", (event) => startDrag(event, place));
  rail.append(grip);
  node.append(rail, make("div", "rk-body", cardHead(place), cardText(output), cardFoot(place)));
  node.addEventListener("focusin", () => mark(place));
  return node;
}

function cardHead(place) {
  const letter = LETTERS[place];
  const picks = make("div", "rk-picks");
  picks.setAttribute("role", "group");
  picks.setAttribute("aria-label", `Rank of response ${letter}`);
  if (isPair()) picks.append(pairPick(place));
  else {
    for (let rank = 1; rank <= task.outputs.length; rank++) {
      const pick = button(String(rank), "rk-pick", () => setRank(place, rank), `Rank ${rank}`);
      pick.dataset.rank = rank;
      pick.setAttribute("aria-keyshortcuts", String(rank));
      picks.append(pick);
    }
  }
  const tools = make("div", "rk-tools");
  if (!isPair()) {
    tools.append(
      keyed(button("↑", "rk-tool", () => nudge(place, -1), `Move ${letter} up`), "Alt", "↑"),
      keyed(button("↓", "rk-tool", () => nudge(place, 1), `Move ${letter} down`), "Alt", "↓"),
    );
  }
  tools.append(
    keyed(button("Plain", "rk-tool rk-plain", () => togglePlain(place), `Plain text of ${letter}`), "t"),
    keyed(button("Read", "rk-tool", () => openReading(place), `Read ${letter} in full view`), "v"),
    keyed(button("Compare", "rk-tool", () => openCompare(place), `Compare ${letter} with another, word by word`), "d"),
    keyed(button("Improve", "rk-tool", () => beginBetter(place), `Write a better answer, from ${letter}`), "i"),
  );
  return make("div", "rk-head", make("span", "rk-letter", letter), picks, tools);
}

function cardText(output) {
  const text = make("div", "rk-text");
  text.dir = "auto";
  text.innerHTML = output.html;
  return text;
}

function cardFoot(place) {
  const foot = make("div", "rk-foot");
  for (const [flag, label, key] of FLAGS) {
    const chip = keyed(button(label, "rk-flag", () => toggleFlag(place, flag), `Flag ${LETTERS[place]}: ${label}`), key);
    chip.dataset.flag = flag;
    foot.append(chip);
  }
  foot.append(keyed(button(make("span", "rk-more-label", "Show all"), "rk-more", () => unfold(place)), "x"));
  return foot;
}

function togglePlain(place) {
  const text = cards[place].querySelector(".rk-text");
  const plain = text.toggleAttribute("data-plain");
  if (plain) text.replaceChildren(...typed(task.outputs[place].text));
  else text.innerHTML = task.outputs[place].html;
  cards[place].querySelector(".rk-plain").setAttribute("aria-pressed", plain);
  measure(place);
}

function unfold(place) {
  const open = cards[place].toggleAttribute("data-open");
  cards[place].querySelector(".rk-more-label").textContent = open ? "Show less" : "Show all";
  cards[place].querySelector(".rk-more").setAttribute("aria-expanded", open);
  if (!open) cards[place].querySelector(".rk-text").scrollTop = 0;
  measure(place);
}

// Whether there is more text than is shown; and what scrolls sideways must be reachable by keyboard.
function measure(place) {
  const text = cards[place].querySelector(".rk-text");
  const open = cards[place].hasAttribute("data-open");
  cards[place].toggleAttribute("data-long", open || text.scrollHeight > text.clientHeight + 4);
  reachable(text);
}

function reachable(box) {
  for (const node of [box, ...box.querySelectorAll("pre, table")]) {
    if (node.scrollWidth > node.clientWidth + 1 && node.clientWidth) node.tabIndex = 0;
    else node.removeAttribute("tabindex");
  }
}
