// ---- sending an answer, taking it back, correcting it --------------------------------------------

let sureAsShown = false; // warned that the order is as shown; the next submit means it
let undoable = null; // {taskId, until}
let undoTimer = 0;

function mayRank() {
  const waiting = pool();
  if (waiting.length) {
    const names = waiting.map((place) => LETTERS[place]).join(", ");
    notice(`Rank every response first. Still waiting: ${names}.`, "wait");
    focusCard(waiting[0]);
    return false;
  }
  if (isAsShown() && !sureAsShown) {
    sureAsShown = true;
    notice("This is exactly the order in which they were shown. If you mean it, submit again.", "wait");
    return false;
  }
  return true;
}

function submission(verdict, reason) {
  const given = steps();
  const ranked = verdict === "ranked";
  return {
    submission_id: task.submission_id,
    verdict,
    reason,
    ranks: ranked ? levels : [],
    // 0 says that nobody graded a step.
    strengths: ranked && given.some(Boolean) ? given : [],
    flags: ranked ? flags : [],
    all_bad: find(".rk-allbad").checked,
    comment: find(".rk-comment").value,
    confidence: confidence || null,
    ...betterAnswer(),
    active_seconds: active,
  };
}

async function send(verdict, reason = "") {
  if (!task || busy || (verdict === "ranked" && !mayRank())) return;
  setBusy(true);
  unplan();
  const typed = dirty;
  dirty = false;
  if (saving) await saving;
  const answer = await ask("submit", { ...submission(verdict, reason), ...seen() });
  setBusy(false);
  if (!answer.ok) {
    dirty = typed;
    if (answer.stale) return conflict(answer);
    if (answer.away) {
      keepCopy();
      dirty = true;
      plan(RETRY_MS);
    }
    return refused(answer, [["Send again", () => send(verdict, reason)]]);
  }
  dropCopy(task.submission_id);
  answer.message ||= task.version ? "Correction stored." : "Stored.";
  // What is typed next belongs to the next task's cards, not to a text field of this one.
  document.activeElement?.blur?.();
  if (answer.feedback) return showFeedback(answer, verdict);
  show(answer.screen);
  toTop();
  offerUndo(answer);
}

// ---- undo ----------------------------------------------------------------------------------------

function offerUndo(answer) {
  undoable = answer.undo_s ? { taskId: answer.task_id, until: Date.now() + answer.undo_s * 1000 } : null;
  const node = find(".rk-toast");
  const acts = [];
  if (undoable) {
    const press = keyed(button("Undo", "rk-act rk-undo", undo, "Undo: take the answer back"), "u");
    press.append(hidden(make("span", "rk-left")));
    acts.push(press, button("Correct", "rk-act", () => correct(answer.task_id), "Correct the answer"));
  }
  node.hidden = false;
  node.querySelector("p").textContent = answer.message;
  node.querySelector(".rk-acts").replaceChildren(...acts);
  clearInterval(undoTimer);
  undoTimer = setInterval(countUndo, 500);
  countUndo();
}

function countUndo() {
  const left = Math.ceil(((undoable?.until ?? 0) - Date.now()) / 1000);
  if (left <= 0) return closeToast();
  find(".rk-left").textContent = `${left} s`;
}

function closeToast() {
  clearInterval(undoTimer);
  undoable = null;
  // Let what was said stay for a moment where there is no countdown.
  setTimeout(() => undoable || (find(".rk-toast").hidden = true), 4000);
  find(".rk-undo")?.remove();
}

async function undo() {
  if (!undoable || busy) return;
  const { taskId } = undoable;
  if (dirty) await save();
  const answer = await ask("undo", { task_id: taskId });
  if (!answer.ok) return refused(answer);
  closeToast();
  find(".rk-toast").hidden = true;
  show(answer.screen);
  toTop();
  notice("Taken back. Your answer is a draft again.", "info");
}

// ---- corrections ---------------------------------------------------------------------------------

async function correct(taskId) {
  if (dirty) await save();
  const answer = await ask("correct", { task_id: taskId });
  if (!answer.ok) return refused(answer);
  find(".rk-toast").hidden = true;
  show(answer.screen);
  window.scrollTo({ top: 0 });
}

async function cancelCorrection() {
  forget();
  const answer = await ask("cancel", { submission_id: task.submission_id });
  if (!answer.ok) return refused(answer);
  show(answer.screen);
}

async function load() {
  const answer = await ask("load", {});
  if (answer.ok) {
    show(answer.screen);
    return true;
  }
  if (answer.signed_out && root.dataset.view === "loading") return window.location.assign("/");
  refused(answer, [["Try again", load]]);
  return false;
}
