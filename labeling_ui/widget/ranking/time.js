// ---- seconds of work, renewal of the lease -------------------------------------------------------

const IDLE_S = 60;
const RENEW_S = 120;

let lastInput = 0;
let sinceRenewal = 0;

for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
  document.addEventListener(kind, () => (lastInput = Date.now()), { passive: true });
}

document.addEventListener("visibilitychange", () => {
  if (!element.isConnected) return;
  if (!document.hidden) renew();
  else if (dirty) save();
});

const pulse = setInterval(() => {
  if (!element.isConnected) {
    clearInterval(pulse);
    document.removeEventListener("keydown", onKey);
    return;
  }
  const working = task && root.dataset.view === "task" && !document.hidden && Date.now() - lastInput < IDLE_S * 1000;
  if (!working) return;
  active += 1;
  sinceRenewal += 1;
  if (sinceRenewal >= RENEW_S) {
    sinceRenewal = 0;
    renew();
  }
}, 1000);
