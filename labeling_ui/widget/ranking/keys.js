// ---- keys ----------------------------------------------------------------------------------------

const KEYS = [
  ["Ranking", [
    [["1", "…", "9"], "rank of the marked response; the same number is a tie"],
    [["↑", "↓"], "mark another response"],
    [["Alt", "↑", "↓"], "move it: into a tie, then past it"],
    [["s"], "how much better than the next: slightly, better, much"],
  ]],
  ["Two responses", [
    [["←", "→"], "the left or the right one is better"],
    [["=", "e"], "they are equal"],
    [["1", "2", "3"], "slightly better, better, much better"],
  ]],
  ["The marked response", [
    [["h", "f", "o", "r", "p"], "flags: harmful, false, off task, refusal, personal data"],
    [["x"], "show all of its text"],
    [["v"], "read it in full view; there the arrows turn pages"],
    [["t"], "plain text, as the model wrote it"],
    [["d"], "compare it with another, word by word"],
    [["i"], "write a better answer, begun from it"],
  ]],
  ["Your answer", [
    [["b"], "none is acceptable"],
    [["c"], "how sure you are"],
    [["w"], "write why; Esc leads back"],
    [["Ctrl", "Enter"], "submit"],
    [["n"], "cannot judge"],
    [["k"], "skip; then the number of a reason"],
    [["u"], "undo the answer just given"],
  ]],
  ["The page", [
    [["g"], "guidelines beside the task"],
    [["?"], "this list"],
    [["Esc"], "close what is open"],
  ]],
];

const keyList = find(".rk-keylist");

find(".rk-keylist-body").append(
  ...KEYS.map(([title, rows]) =>
    make("section", "", make("h3", "", title), make("dl", "", ...rows.map(([keys, text]) =>
      make("div", "", make("dt", "", ...keys.map((key) => make(key === "…" ? "span" : "kbd", "", key))), make("dd", "", text))))),
  ),
);

function sightOrder() {
  return [...list.querySelectorAll(".rk-card")].map((node) => Number(node.dataset.place));
}

function onKey(event) {
  if (!element.isConnected || busy) return;
  const dialog = root.querySelector("dialog[open]");
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
  const act = dialog ? dialogKey(dialog, event, typing) : pageKey(event, typing);
  if (!act) return;
  event.preventDefault();
  act();
}

function dialogKey(dialog, event, typing) {
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return null;
  if (dialog === reading) return readingKey(event);
  if (dialog === comparing && event.key === "d") return () => dialog.close();
  return dialog === keyList && event.key === "?" ? () => dialog.close() : null;
}

function pageKey(event, typing) {
  const view = root.dataset.view;
  const enter = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (view === "feedback") return enter || (event.key === "Enter" && event.target === find(".rk-feedback-title")) ? leaveFeedback : null;
  if (view === "task" && task) {
    if (enter) return () => send("ranked");
    if (event.key === "Escape") return escape(event);
  }
  if (event.key === "Escape" && root.hasAttribute("data-guide")) return toggleGuide;
  if (typing || event.ctrlKey || event.metaKey) return null;
  if (!event.altKey && event.key in anywhere) return anywhere[event.key];
  return view === "task" && task ? taskKey(event) : null;
}

const anywhere = { g: toggleGuide, "?": () => keyList.showModal(), u: () => undo() };

function escape(event) {
  if (drag) return cancelDrag;
  if (event.target === find(".rk-comment") || event.target === betterText) return () => focusCard(marked);
  if (!find(".rk-skip").hidden) return () => (closeSkip(), focusCard(marked));
  return root.hasAttribute("data-guide") ? toggleGuide : null;
}

function taskKey(event) {
  const up = event.key === "ArrowUp";
  if (up || event.key === "ArrowDown") {
    if (event.altKey) return () => focusThen(() => nudge(marked, up ? -1 : 1));
    const order = sightOrder();
    const next = order[order.indexOf(marked) + (up ? -1 : 1)];
    return next === undefined ? () => {} : () => focusCard(next);
  }
  if (event.altKey) return null;
  if (!find(".rk-skip").hidden && REASONS[Number(event.key) - 1]) return () => send("skipped", REASONS[Number(event.key) - 1][0]);
  if (isPair()) {
    const act = pairAction(event.key);
    if (act) return () => focusThen(act);
  }
  const rank = Number(event.key);
  if (rank >= 1 && rank <= task.outputs.length) return () => focusThen(() => setRank(marked, rank));
  return letterKey(event.key);
}

function letterKey(key) {
  const flag = FLAGS.find(([, , letter]) => letter === key);
  if (flag) return () => toggleFlag(marked, flag[0]);
  const letters = {
    b: () => find(".rk-allbad").click(),
    c: () => setConfidence((confidence + 1) % 4),
    d: () => openCompare(marked),
    i: () => beginBetter(marked),
    k: acts.skip,
    n: acts.cannot,
    s: cycleStep,
    t: () => togglePlain(marked),
    v: () => openReading(marked),
    w: () => find(".rk-comment").focus(),
    x: () => unfold(marked),
  };
  return letters[key] ?? null;
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
