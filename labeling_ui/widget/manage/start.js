
// ---- which page, and when it is fetched ----------------------------------------------------------

const PAGES = {
  overview: [() => ({}), drawOverview],
  annotators: [() => ({}), drawAnnotators],
  disagreements: [() => ({ page: disputePage, decided: shownTasks === "decided", model: shownTasks === "model" }), drawDisagreements],
  rounds: [() => ({}), drawRounds],
};
// A dispute under decision must not move; the others follow what happens.
const LIVE = ["overview", "annotators", "rounds"];

let asked = 0;

async function load() {
  const [payload, drawPage] = PAGES[view];
  const mine = (asked += 1);
  const answer = await ask(view, payload());
  if (mine !== asked) return; // the person went elsewhere meanwhile
  if (!answer.ok) {
    if (root.dataset.view === "loading") pageOf("loading").replaceChildren(make("p", "mg-quiet", answer.error));
    else notice(answer.error, "warn");
    return;
  }
  if (find(".mg-notice").dataset.kind === "warn" && !find(".mg-notice").hidden) notice("");
  frame(answer);
  root.dataset.view = view;
  drawPage(answer);
}

function go(name) {
  view = name;
  notice("");
  for (const link of root.querySelectorAll("[data-go]")) {
    if (link.dataset.go === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (window.location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  load();
}

root.addEventListener("click", (event) => {
  const target = event.target.closest("[data-go]");
  if (target) go(target.dataset.go);
});
find(".mg-round select").addEventListener("change", (event) => {
  round = Number(event.target.value);
  [disputePage, openTask] = [0, null];
  load();
});

function poll() {
  if (!element.isConnected) {
    clearInterval(pulse);
    document.removeEventListener("visibilitychange", poll);
    return;
  }
  const typing = root.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
  const old = Date.now() - drawnAt >= POLL_S * 1000 - 500;
  if (!document.hidden && LIVE.includes(view) && !find(".mg-dialog").open && !typing && old) load();
}

let resized = 0;
let widthDrawn = root.clientWidth;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  // Pictures are drawn for the width there is.
  resized = setTimeout(() => {
    if (element.isConnected && view === "overview" && root.clientWidth !== widthDrawn) load();
    widthDrawn = root.clientWidth;
  }, 200);
});

const pulse = setInterval(poll, POLL_S * 1000);
document.addEventListener("visibilitychange", poll);

go(Object.hasOwn(PAGES, window.location.hash.slice(1)) ? window.location.hash.slice(1) : "overview");
