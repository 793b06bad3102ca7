// ---- dragging: pointer events, so that touch works; the grip only, so that a phone can still scroll ----

let drag = null;

function startDrag(event, place) {
  if (event.button > 0) return;
  event.preventDefault();
  const node = cards[place];
  node.focus({ preventScroll: true });
  drag = { place, node, y: event.clientY, scroll: window.scrollY, target: null, pointer: event.clientY };
  node.setAttribute("data-dragged", "");
  root.setAttribute("data-dragging", "");
  drag.frame = requestAnimationFrame(followDrag);
  window.addEventListener("pointermove", moveDrag);
  window.addEventListener("pointerup", endDrag);
  window.addEventListener("pointercancel", cancelDrag);
}

function moveDrag(event) {
  drag.pointer = event.clientY;
}

function followDrag() {
  if (!drag) return;
  const edge = 70;
  if (drag.pointer < edge) window.scrollBy(0, -12);
  if (drag.pointer > window.innerHeight - edge) window.scrollBy(0, 12);
  const shift = drag.pointer - drag.y + window.scrollY - drag.scroll;
  drag.node.style.transform = `translateY(${shift}px) scale(.985)`;
  aim();
  drag.frame = requestAnimationFrame(followDrag);
}

function aim() {
  const rows = [...list.querySelectorAll(".rk-tier")];
  let target = { gap: rows.length };
  for (const row of rows) {
    const box = row.getBoundingClientRect();
    const index = Number(row.dataset.tier);
    const alone = row.children.length === 1 && row.contains(drag.node);
    const margin = Math.min(box.height * 0.25, 60);
    if (drag.pointer < box.top + margin) {
      target = { gap: index };
      break;
    }
    if (drag.pointer <= box.bottom - margin) {
      target = alone ? null : { tie: index };
      break;
    }
  }
  drag.target = target;
  for (const row of list.children) row.removeAttribute("data-aim");
  if (!target) return;
  if (target.tie !== undefined) rows[target.tie].dataset.aim = "tie";
  else if (rows[target.gap]) rows[target.gap].dataset.aim = "before";
  else if (rows.length) rows[rows.length - 1].dataset.aim = "after";
  else list.lastElementChild.dataset.aim = "before";
}

function stopDrag() {
  cancelAnimationFrame(drag.frame);
  window.removeEventListener("pointermove", moveDrag);
  window.removeEventListener("pointerup", endDrag);
  window.removeEventListener("pointercancel", cancelDrag);
  drag.node.style.transform = "";
  drag.node.removeAttribute("data-dragged");
  root.removeAttribute("data-dragging");
  for (const row of list.children) row.removeAttribute("data-aim");
  const ended = drag;
  drag = null;
  return ended;
}

function endDrag() {
  const moved = Math.abs(drag.pointer - drag.y) > 5;
  if (moved) aim();
  const ended = stopDrag();
  if (moved && ended.target) drop(ended.place, ended.target);
}

function cancelDrag() {
  stopDrag();
}
