// ---- saving --------------------------------------------------------------------------------------
// Every change is on its way to the server within 100 ms. Until the server has it, a copy stays in this browser, under the
// task's submission id: a reload, which Gradio does by itself after a restart, brings it back.

const COPY = "rlhf.draft.";
const COPY_DAYS = 7;
const SAVE_MS = 80;
const RETRY_MS = 2000;
const TAB = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 12)}`;

let revision = 0; // of the draft that this tab has seen
let dirty = false; // something typed here is not at the server yet
let saving = null;
let timer = 0;
let stale = false; // another tab wrote later; nothing is sent until the person chose

function draft() {
  return {
    levels,
    strengths: steps(),
    flags,
    all_bad: find(".rk-allbad").checked,
    comment: find(".rk-comment").value,
    confidence: confidence || null,
    ...betterDraft(),
  };
}

function changed(focus) {
  draw(focus);
  touched();
}

function touched() {
  sureAsShown = false;
  dirty = true;
  keepCopy();
  saved("Saving…");
  plan(SAVE_MS);
}

function plan(delay) {
  timer ||= setTimeout(() => {
    timer = 0;
    save();
  }, delay);
}

function unplan() {
  clearTimeout(timer);
  timer = 0;
}

const seen = () => ({ tab: TAB, revision });

async function save() {
  if (!task || saving || stale) return;
  const mine = task.submission_id;
  dirty = false;
  saving = ask("save", { submission_id: mine, draft: draft(), active_seconds: active, ...seen() });
  const answer = await saving;
  saving = null;
  if (task?.submission_id !== mine) return;
  if (answer.ok) {
    revision = answer.revision;
    if (dirty) return plan(SAVE_MS);
    dropCopy(mine);
    saved(`Draft saved ${clock(Date.now())}`);
    return;
  }
  dirty = true;
  if (answer.gone) gone(answer);
  else if (answer.stale) conflict(answer);
  else if (answer.signed_out || !answer.away) {
    saved("Not saved", true);
    refused(answer);
  } else {
    saved("Not saved, trying again…", true);
    plan(RETRY_MS);
  }
}

// Renews the lease, and learns whether another tab was at work, without sending anything.
async function renew() {
  if (!task || saving || dirty || stale || busy) return;
  const mine = task.submission_id;
  saving = ask("save", { submission_id: mine, draft: null, ...seen() });
  const answer = await saving;
  saving = null;
  if (task?.submission_id !== mine || dirty) return dirty && plan(SAVE_MS);
  if (answer.gone || answer.stale) {
    // Nothing was typed here: show what the other tab has.
    await load();
    notice("Changed in another tab; this is the latest.", "info");
  }
}

function gone(answer) {
  saved("");
  notice(answer.error, "warn", [["Go on", () => (forget(), load())]]);
}

function conflict(answer) {
  stale = true;
  saved("Not saved", true);
  const keep = () => {
    [stale, revision] = [false, answer.revision];
    notice("");
    save();
  };
  notice("This task was changed in another tab meanwhile. Which version counts?", "warn", [
    ["Take the other tab's", () => (forget(), load())],
    ["Keep what is here", keep],
  ]);
}

function forget() {
  unplan();
  dirty = false;
  if (task) dropCopy(task.submission_id);
}

// ---- the copy in this browser --------------------------------------------------------------------

function keepCopy() {
  if (!task) return;
  const copy = { who, draft: draft(), active, revision, tab: TAB, at: Date.now() };
  try {
    localStorage.setItem(COPY + task.submission_id, JSON.stringify(copy));
  } catch {
    // The browser keeps nothing (private window, full): the server's copy has to do.
  }
}

function dropCopy(submission) {
  try {
    localStorage.removeItem(COPY + submission);
  } catch {
    // Nothing is kept, nothing to drop.
  }
}

function readCopy(submission) {
  try {
    const copy = JSON.parse(localStorage.getItem(COPY + submission));
    return copy && copy.who === who ? copy : null;
  } catch {
    return null;
  }
}

// Other people's copies and old ones go: this may be a shared computer.
function sweepCopies(all = false) {
  try {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(COPY))) {
      const copy = JSON.parse(localStorage.getItem(key));
      const old = Date.now() - copy.at > COPY_DAYS * 86400e3;
      if (all || copy.who !== who || old) localStorage.removeItem(key);
    }
  } catch {
    // As above.
  }
}

// Take up what was typed and did not reach the server; returns "mine", "theirs" where both changed, or "".
function takeUpCopy() {
  const copy = readCopy(task.submission_id);
  if (!copy) return "";
  const said = (state) => JSON.stringify(["levels", "strengths", "flags", "all_bad", "comment", "confidence", "edit_of", "edit"].map((name) => state[name] ?? null));
  if (said(copy.draft) === said(task.draft)) {
    dropCopy(task.submission_id);
    return "";
  }
  if (copy.revision !== task.revision && copy.tab !== task.tab) return "theirs";
  task.draft = copy.draft;
  task.active_seconds = Math.max(task.active_seconds, copy.active);
  return "mine";
}

function offerCopy() {
  const copy = readCopy(task.submission_id);
  notice(`You also typed something at ${clock(copy.at)} that did not reach the server, before this version was saved.`, "warn", [
    ["Use it", () => (fill(copy.draft), draw(marked), touched(), notice(""))],
    ["Drop it", () => (dropCopy(task.submission_id), notice(""))],
  ]);
}
