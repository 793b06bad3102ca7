// ---- training: what it is before, what it teaches after ------------------------------------------

let afterFeedback = null; // the screen that follows

function drawTraining(left) {
  const node = find(".rk-training");
  node.hidden = !task.training;
  find(".rk-training-left").textContent = left === 1 ? "the last one" : `${left} to go`;
}

function showFeedback(answer, verdict) {
  const { ranks, explanation, agreement } = answer.feedback;
  const own = verdict === "ranked" ? levels : [];
  const pairs = (ranks.length * (ranks.length - 1)) / 2;
  const alike = Math.round(agreement * pairs * 2) / 2;
  find(".rk-feedback-title").textContent = own.length ? `${alike} of ${plural(pairs, "pair")} as in the key` : "The key of this item";
  find(".rk-feedback-sum").textContent = own.length
    ? agreement === 1
      ? "Your order is the key's order."
      : "A pair counts half where one of you has a tie and the other an order."
    : "You gave no order; this is the right one.";
  const why = find(".rk-feedback-why");
  why.hidden = !explanation;
  why.querySelector("div").innerHTML = explanation;
  const order = ranks.map((_, place) => place).sort((a, b) => ranks[a] - ranks[b] || a - b);
  find(".rk-feedback ol").replaceChildren(...order.map((place) => feedbackRow(place, ranks, own)));
  afterFeedback = answer.screen;
  find(".rk-toast").hidden = true;
  notice("");
  drawTop(answer.screen);
  task = null;
  go("feedback");
  toTop();
  find(".rk-feedback-title").focus({ preventScroll: true });
}

function feedbackRow(place, ranks, own) {
  const same = own[place] === ranks[place];
  const node = make("li", "rk-lesson");
  const marks = make("dl", "rk-lesson-ranks", make("div", "", make("dt", "", "Key"), make("dd", "", String(ranks[place]))));
  if (own.length) {
    const yours = make("div", "", make("dt", "", "You"), make("dd", "", String(own[place])));
    yours.toggleAttribute("data-same", same);
    marks.append(yours);
  }
  const text = make("div", "rk-text");
  text.dir = "auto";
  text.innerHTML = task.outputs[place].html;
  node.append(marks, make("div", "rk-lesson-body", make("span", "rk-letter", LETTERS[place]), text));
  return node;
}

function leaveFeedback() {
  const screen = afterFeedback;
  afterFeedback = null;
  if (!screen) return load();
  show(screen);
  toTop();
}
