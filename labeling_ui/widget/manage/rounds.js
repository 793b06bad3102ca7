
// ---- rounds --------------------------------------------------------------------------------------

function drawRounds(answer) {
  const rows = [...answer.progress].sort((one, two) => two.round - one.round);
  redraw(pageOf("rounds"), ...rows.map(roundCard));
}

function roundCard(row) {
  const open = row.tasks - row.closed;
  const state = !row.left ? (row.closed ? "closed" : "complete") : "open";
  const share = row.slots ? percent(row.filled / row.slots) : "0 %";
  const box = card(
    `Round ${row.round}`,
    `${plural(row.tasks, "task")}; ${whole(row.filled)} of ${plural(row.slots, "slot")} filled (${share}); ${plural(row.leased, "task")} in somebody's hands.`,
    shares(
      [
        { name: "complete", count: row.complete, look: "mg-full" },
        { name: "started", count: row.started, look: "mg-half" },
        { name: "untouched", count: row.untouched, look: "mg-empty" },
      ],
      `Tasks of round ${row.round}`,
    ),
  );
  box.querySelector("h2").append(make("em", `mg-kind mg-is-${state}`, state));
  if (open && row.left) {
    box.append(make("div", "mg-round-acts", keyed(button("Close this round…", "mg-plain", () => askToClose(row.round), `Close round ${row.round}`), `close-${row.round}`)));
  }
  return box;
}

async function askToClose(number) {
  const lost = await ask("closing", { round: number });
  if (!lost.ok) return notice(lost.error, "warn");
  const lines = [
    `${plural(lost.tasks, "task")} will stay incomplete: ${plural(lost.slots, "slot")} will not be filled, and ${plural(lost.untouched, "task")} will have no answer at all.`,
  ];
  if (lost.working.length) lines.push(`Working at this moment: ${lost.working.join(", ")}. What they submit afterwards is kept, but does not count.`);
  if (lost.drafts) lines.push(`${plural(lost.drafts, "draft")} not submitted yet.`);
  lines.push("No answer is deleted. A closed round cannot be opened again.");
  confirmWith(`Close round ${number}?`, lines, `Close round ${number}`, async () => {
    const answer = await ask("close_round", { round: number });
    await load();
    notice(answer.ok ? `Round ${number} is closed.` : answer.error, answer.ok ? "good" : "warn");
  });
  return undefined;
}
