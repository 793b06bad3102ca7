// ---- buttons, and the beginning ------------------------------------------------------------------

function closeSkip() {
  find(".rk-skip").hidden = true;
  find("[data-act=skip]").setAttribute("aria-expanded", "false");
}

function setConfidence(value) {
  confidence = value;
  drawConfidence();
  say(value ? `Confidence: ${CONFIDENCE[value]}` : "Confidence not said");
  touched();
}

const acts = {
  submit: () => send("ranked"),
  cannot: () => send("cannot_judge"),
  skip: () => {
    const box = find(".rk-skip");
    box.hidden = !box.hidden;
    find("[data-act=skip]").setAttribute("aria-expanded", String(!box.hidden));
  },
  better: () => beginBetter(marked),
  dropbetter: dropBetter,
  guide: toggleGuide,
  keys: () => keyList.showModal(),
  theme: nextTheme,
  signout: signOut,
  reload: load,
  next: leaveFeedback,
  previous: () => turnPage(-1),
  following: () => turnPage(1),
  close: (target) => target.closest("dialog").close(),
};

root.addEventListener("click", (event) => {
  const target = event.target.closest("[data-act], [data-go]");
  if (target?.dataset.act) acts[target.dataset.act](target);
  if (target?.dataset.go === "work") openWork();
  if (target?.dataset.go === "task") go(task ? "task" : afterFeedback ? "feedback" : "done");
});

find(".rk-allbad").addEventListener("change", touched);
find(".rk-comment").addEventListener("input", touched);
find(".rk-reasons").append(
  ...REASONS.map(([reason, label], index) => keyed(button(label, "rk-reason", () => send("skipped", reason)), String(index + 1))),
);
find(".rk-sure").append(
  ...[1, 2, 3].map((value) => button(CONFIDENCE[value], "rk-choice", () => setConfidence(confidence === value ? 0 : value))),
);

document.addEventListener("keydown", onKey);
window.addEventListener("resize", () => cards.forEach((node, place) => node.isConnected && measure(place)));

applyTheme();
load();
