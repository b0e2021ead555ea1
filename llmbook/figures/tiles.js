const two = fixed(2);

// All tiles in order; for each its corner and, for its queries, m before and after, fade, l and o.
function walk(scores, values, block, causal) {
  const n = scores.length, steps = [];
  for (let q = 0; q < n; q += block) {
    let rows = Array.from({ length: block }, () => ({ m: -Infinity, l: 0, o: values[0].map(() => 0) }));
    for (let k = 0; k < (causal ? q + block : n); k += block) {
      rows = rows.map((old, a) => {
        const seen = Array.from({ length: block }, (_, b) => k + b).filter((key) => !causal || key <= q + a);
        const m = Math.max(old.m, ...seen.map((key) => scores[q + a][key]));
        const fade = Math.exp(old.m - m);
        const p = seen.map((key) => Math.exp(scores[q + a][key] - m));
        return { before: old.m, m, fade, l: fade * old.l + p.reduce((t, v) => t + v, 0),
          o: old.o.map((v, d) => fade * v + p.reduce((t, w, c) => t + w * values[seen[c]][d], 0)) };
      });
      steps.push({ q, k, rows });
    }
  }
  return steps;
}

function map(scores, steps, done, block, causal) {
  const n = scores.length, cell = 288 / n, left = 22, top = 40;
  const svg = s("svg", { viewBox: `0 0 ${left + 292} ${top + 294}`, "aria-hidden": "true", class: "map",
    style: "max-width:330px" });
  const biggest = Math.max(...scores.flat().map(Math.abs));
  const state = Array.from({ length: n }, () => Array(n).fill("later"));
  steps.slice(0, done).forEach(({ q, k }, t) => {
    for (let a = 0; a < block; a++) {
      for (let b = 0; b < block; b++) state[q + a][k + b] = t === done - 1 ? "now" : "past";
    }
  });
  svg.append(s("text", { x: left, y: 13 }, "keys →"), s("text", { x: left, y: 31, class: "soft" },
    "queries ↓"));
  scores.forEach((row, i) => row.forEach((v, j) => {
    const hidden = causal && j > i, now = state[i][j] === "now" && !hidden;
    svg.append(s("rect", { x: left + j * cell, y: top + i * cell, width: cell, height: cell,
      "data-state": hidden ? "hidden" : state[i][j], stroke: "var(--line)",
      fill: hidden ? "var(--line)" : now ? `var(--${v < 0 ? "orange" : "blue"})`
        : state[i][j] === "past" ? "var(--well)" : "none",
      "fill-opacity": now ? 0.12 + 0.28 * Math.abs(v) / biggest : hidden ? 0.6 : 1 }));
    if (now && n <= 8) {
      svg.append(s("text", { x: left + (j + 0.5) * cell, y: top + (i + 0.5) * cell + 4.5,
        "text-anchor": "middle", style: "font-size:12.5px" }, fixed(1)(v)));
    } else if (state[i][j] === "past" && !hidden) {
      svg.append(s("path", { d: `M${left + (j + 0.4) * cell} ${top + (i + 0.5) * cell}h${0.2 * cell}`,
        stroke: "var(--soft)" }));
    }
  }));
  for (let t = 0; t <= n; t += block) {
    svg.append(s("path", { stroke: "var(--soft)", fill: "none", d: `M${left + t * cell} ${top}v288`
      + `M${left} ${top + t * cell}h288` }));
  }
  if (done > 0) {
    const { q, k } = steps[done - 1];
    svg.append(s("rect", { x: left + k * cell, y: top + q * cell, width: block * cell, height: block * cell,
      fill: "none", stroke: "var(--ink)", "stroke-width": 2.5 }));
  }
  for (let i = 0; i < n; i++) {
    svg.append(s("text", { x: left - 6, y: top + (i + 0.5) * cell + 4.5, "text-anchor": "end", class: "soft" },
      String(i + 1)));
  }
  return svg;
}

function table(now, block) {
  const style = "padding:2px 9px 2px 0;text-align:right;font-weight:400;white-space:nowrap";
  const head = ["query", "m", "fade", "l", "o", "o / l"].map((t) => h("th", { style }, t));
  const vector = (o) => (o.length === 1 ? two(o[0]) : `(${o.map(two).join(", ")})`);
  const rows = now ? now.rows.map((row, a) => h("tr", { class: "query", "data-m": row.m, "data-l": row.l,
    "data-fade": row.fade, "data-o": row.o[0], "data-out": row.o[0] / row.l },
    ...[String(now.q + a + 1), row.before === -Infinity || row.before === row.m ? two(row.m)
      : `${two(row.before)} → ${two(row.m)}`, two(row.fade), two(row.l), vector(row.o),
      vector(row.o.map((v) => v / row.l))].map((t, c) => h("td", { style: style
      + (c === 2 && row.fade < 1 && row.before !== -Infinity ? ";color:var(--orange);font-weight:650" : "") }, t))))
    : [];
  return h("div", { style: "overflow-x:auto" }, h("table", { style: "border-collapse:collapse;border:0;"
    + "background:none;color:inherit;font-size:14px", class: "state" },
  h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)));
}

function render({ model, el }) {
  const ui = frame(model, el, "Softmax without the matrix: one tile at a time");
  const get = (name) => model.get(name), n = get("scores").length;
  const tiles = () => walk(get("scores"), get("values"), get("block"), get("causal"));
  const go = (to) => put(model, { step: Math.max(0, Math.min(tiles().length, to)) });
  const back = button("◀ Back", () => go(get("step") - 1), { "data-name": "back" });
  const next = button("Next tile ▶", () => go(get("step") + 1), { "data-name": "next" });
  const place = slider({ label: "Tiles done", name: "step", min: 0, max: 64, step: 1, input: go,
    show: (t) => `${t} of ${tiles().length}` });
  const block = choice({ label: "Side of a tile", name: "block", input: (b) => put(model, { step: 0, block: b }),
    options: [1, 2, 4, 8].filter((b) => n % b === 0).map((b) => [b, String(b)]) });
  const causal = choice({ label: "Causal mask", name: "causal", options: [[false, "off"], [true, "on"]],
    input: (on) => put(model, { step: 0, causal: on }) });
  ui.controls.append(block.node, causal.node, h("div", { class: "walk" }, back, next), place.node);
  const note = h("p", { class: "note" });
  ui.root.append(note);

  function draw(width) {
    const steps = tiles(), b = get("block"), done = Math.min(get("step"), steps.length);
    const now = done ? steps[done - 1] : null;
    block.set(b);
    causal.set(get("causal"));
    place.range.max = steps.length;
    place.set(done);
    back.disabled = done === 0;
    next.disabled = done === steps.length;
    const wide = width >= 640;
    ui.body.style.cssText = `display:grid;gap:12px;grid-template-columns:${wide ? "330px 1fr" : "minmax(0,1fr)"}`;
    ui.body.replaceChildren(map(get("scores"), steps, done, b, get("causal")), table(now, b));
    const span = (t) => (b === 1 ? `${t + 1}` : `${t + 1} to ${t + b}`);
    if (!now) {
      ui.say("Nothing computed yet. For each query we shall keep a maximum m, a sum l and an output o.");
    } else {
      const grew = now.rows.filter((row) => row.before !== -Infinity && row.m > row.before).length;
      const last = done === steps.length || steps[done].q !== now.q;
      ui.say(`Queries ${span(now.q)}, keys ${span(now.k)}. ` + (now.k === 0
        ? "A new block of queries: its first tile sets m, l and o. "
        : grew ? `<b>${grew === 1 ? "One maximum" : `${grew} maxima`} grew</b>: what was summed there is multiplied `
          + "by fade = e to the (old m − new m). " : "No maximum grew: fade is 1, just add. ")
        + (last ? "<b>Row finished: o / l is the exact output.</b>" : "o / l is exact for the keys seen so far."));
    }
    note.textContent = `Scores in hand: ${b * b} of ${n * n}. Kept per query: m, l and o.`;
    note.dataset.held = b * b;
    ui.readout.dataset.tiles = steps.length;
  }
  return redraw(model, ui.body, ["step", "block", "causal"], draw);
}

export default { render };
