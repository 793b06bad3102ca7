// ---- the order -----------------------------------------------------------------------------------

function tiers() {
  const used = [...new Set(levels.filter((level) => level > 0))].sort((a, b) => a - b);
  return used.map((level) => levels.flatMap((value, place) => (value === level ? [place] : [])));
}

function pool() {
  return levels.flatMap((level, place) => (level === 0 ? [place] : []));
}

function setTiers(groups) {
  const filled = groups.filter((group) => group.length);
  levels = levels.map((_, place) => filled.findIndex((group) => group.includes(place)) + 1);
}

function setRank(place, rank) {
  levels[place] = rank;
  // Numbers may leave gaps while some responses wait; with the last one placed they close up.
  if (!pool().length) setTiers(tiers());
  const waiting = pool();
  changed(waiting.length ? (waiting.find((other) => other > place) ?? waiting[0]) : place);
}

function nudge(place, step) {
  const groups = tiers();
  const index = groups.findIndex((group) => group.includes(place));
  if (index < 0) groups.push([place]);
  else if (groups[index].length > 1) {
    groups[index] = groups[index].filter((other) => other !== place);
    groups.splice(step < 0 ? index : index + 1, 0, [place]);
  } else if (groups[index + step]) {
    groups[index + step].push(place);
    groups[index] = [];
  } else return;
  setTiers(groups);
  changed(place);
}

function drop(place, target) {
  const groups = tiers().map((group) => group.filter((other) => other !== place));
  if (target.tie !== undefined) groups[target.tie].push(place);
  else groups.splice(target.gap, 0, [place]);
  setTiers(groups);
  changed(place);
}

// Three and more left exactly as shown: perhaps on purpose, perhaps untouched.
function isAsShown() {
  return levels.length > 2 && levels.every((level, place) => level === place + 1);
}

// ---- how much better -----------------------------------------------------------------------------

const stepKey = (above, below) => `${above.join(",")}|${below.join(",")}`;

function steps() {
  const groups = tiers();
  return groups.slice(1).map((below, index) => grades.get(stepKey(groups[index], below)) ?? 0);
}

function setStep(index, grade) {
  const groups = tiers();
  if (!groups[index + 1]) return;
  const key = stepKey(groups[index], groups[index + 1]);
  grades.set(key, grades.get(key) === grade ? 0 : grade);
  changed(marked);
}

function cycleStep() {
  const groups = tiers();
  const index = isPair() ? 0 : groups.findIndex((group) => group.includes(marked));
  if (index < 0 || index >= groups.length - 1) return;
  const key = stepKey(groups[index], groups[index + 1]);
  grades.set(key, ((grades.get(key) ?? 0) + 1) % 4);
  changed(marked);
}

function toggleFlag(place, flag) {
  flags[place] = flags[place].includes(flag) ? flags[place].filter((other) => other !== flag) : [...flags[place], flag];
  changed(place);
}
