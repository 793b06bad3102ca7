// ---- guidelines beside the task, theme, sign-out -------------------------------------------------

const guide = find(".rk-guide");
let guideVersion = 0;

const readKey = () => `rlhf.guidelines.${who}`;

function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // The browser keeps nothing: it is asked again next time.
  }
}

function drawGuidelines(found) {
  guideVersion = found.version;
  guide.querySelector("article").innerHTML = found.html;
  find(".rk-guide-version").textContent = found.version ? `Version ${found.version}` : "As delivered";
  // Where this browser knows nothing: the version in force when the person answered last.
  if (kept(readKey()) === null && found.answered_under) keep(readKey(), String(found.answered_under));
  const seenVersion = kept(readKey());
  const isNew = seenVersion === null || Number(seenVersion) < found.version;
  find(".rk-news").hidden = !isNew;
  find(".rk-news").textContent = seenVersion === null ? "not read yet" : "changed";
  find(".rk-guide-news").hidden = !isNew || seenVersion === null;
}

function toggleGuide() {
  const open = root.toggleAttribute("data-guide");
  find("[data-act=guide]").setAttribute("aria-expanded", open);
  if (open) {
    // The note inside stays until the panel is opened again; the mark outside is gone.
    keep(readKey(), String(guideVersion));
    find(".rk-news").hidden = true;
    guide.querySelector("h2").focus({ preventScroll: true });
  } else {
    find(".rk-guide-news").hidden = true;
    find("[data-act=guide]").focus({ preventScroll: true });
  }
  cards.forEach((node, place) => node.isConnected && measure(place));
}

// ---- light and dark ------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const THEME = "rlhf.theme";
const darkSystem = window.matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const theme = THEMES.includes(kept(THEME)) ? kept(THEME) : "auto";
  const dark = theme === "dark" || (theme === "auto" && darkSystem.matches);
  document.body.classList.toggle("dark", dark);
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  find(".rk-theme-name").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  find("[data-act=theme]").setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
}

function nextTheme() {
  keep(THEME, THEMES[(THEMES.indexOf(kept(THEME) ?? "auto") + 1) % THEMES.length]);
  applyTheme();
}

// Gradio follows the system by itself, a moment later.
darkSystem.addEventListener("change", () => setTimeout(applyTheme, 0));

function signOut() {
  sweepCopies(true);
  const form = make("form");
  form.method = "post";
  form.action = "/signout";
  // The server takes the form only with the token that it gave this session.
  const token = document.cookie.split("; ").find((one) => one.startsWith("rlhf_labels_form="));
  const field = make("input");
  Object.assign(field, { type: "hidden", name: "form_token", value: token?.split("=")[1] ?? "" });
  form.append(field);
  document.body.append(form);
  form.submit();
}
