const EDITED = { x: ["X", "WQ", "WK", "WV"], qkv: ["Q", "K", "V"] };
const STEPS = ["Q, K and V", "scores", "scale", "mask", "weights", "output"];
const plain = (digits) => (x) => fixed(digits)(Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x); // no −0.00
const two = plain(2), three = plain(3);
const short = (x) => plain(Math.abs(x) < 9.995 ? 2 : Math.abs(x) < 99.95 ? 1 : 0)(x); // fits a cell
// W with its letter below, in text and in a drawing.
const below = (letter) => h("i", { style: "font-style:normal" }, "W", h("sub", {}, letter));
const drawnBelow = (letter) => ["W", s("tspan", { dy: 3, style: "font-size:12px" }, letter), s("tspan", { dy: -3 }, " ")];
const product = (A, B) => A.map((row) => B[0].map((_, j) => row.reduce((t, v, k) => t + v * B[k][j], 0)));
const turned = (A) => A[0].map((_, j) => A.map((row) => row[j]));

function inputsOf(get) {
  const m = get("matrices");
  if (get("mode") === "qkv") return { Q: m.Q, K: m.K, V: m.V };
  return { Q: product(m.X, m.WQ), K: product(m.X, m.WK), V: product(m.X, m.WV) };
}

function compute(get) {
  const { Q, K, V } = inputsOf(get), d = get("d_k");
  const cut = (M) => M.map((row) => row.slice(0, d));
  const scores = product(cut(Q), turned(cut(K)));
  const scaled = scores.map((row) => row.map((v) => (get("scaled") ? v / Math.sqrt(d) : v)));
  const masked = scaled.map((row, i) => row.map((v, j) => (get("causal") && j > i ? -Infinity : v)));
  const weights = masked.map((row) => {
    const top = Math.max(...row), e = row.map((v) => Math.exp(v - top));
    const sum = e.reduce((a, b) => a + b);
    return e.map((v) => v / sum);
  });
  return { Q: cut(Q), K: cut(K), V, scores, scaled, masked, weights, output: product(weights, V) };
}

// A matrix as a heat map: one hue for each sign, the number in every cell, a frame on the chosen ones.
function heat(title, name, M, chosen, pick) {
  const cell = 38, top = 22;
  const biggest = Math.max(1e-9, ...M.flat().filter(Number.isFinite).map(Math.abs));
  const svg = s("svg", { viewBox: `0 0 154 ${top + cell * M.length + 2}`, "aria-hidden": "true",
    class: "matrix", "data-matrix": name, style: "width:154px" });
  svg.append(s("text", { x: 1, y: 13 }, title));
  M.forEach((row, i) => row.forEach((v, j) => {
    const strength = Number.isFinite(v) ? 0.38 * Math.abs(v) / biggest : 0;
    const [x, y] = [1 + j * cell, top + i * cell];
    svg.append(
      s("rect", { x, y, width: cell, height: cell, fill: `var(--${v < 0 ? "orange" : "blue"})`,
        "fill-opacity": strength, stroke: "var(--line)" }),
      s("text", { x: x + cell / 2, y: y + cell / 2 + 4.5, "text-anchor": "middle", style: "font-size:12px",
        "data-i": i, "data-j": j, "data-value": v },
        v === -Infinity ? "−∞" : name === "weights" ? three(v).replace(/^0/, "") : short(v)));
    if (pick) {
      svg.append(s("rect", { x, y, width: cell, height: cell, fill: "transparent", style: "cursor:pointer",
        onclick: () => pick(i, j) }));
    }
  }));
  const [rows, cols] = chosen;
  if (rows || cols) {
    const [i0, i1] = rows ?? [0, M.length], [j0, j1] = cols ?? [0, M[0].length];
    svg.append(s("rect", { x: 1 + j0 * cell, y: top + i0 * cell, width: (j1 - j0) * cell,
      height: (i1 - i0) * cell, fill: "none", stroke: "var(--ink)", "stroke-width": 2, rx: 2,
      style: "pointer-events:none" }));
  }
  return h("div", { style: "flex:0 0 auto;width:154px" }, svg);
}

const sum = (terms) => terms.join(" + ").replaceAll("+ −", "− ");

function words(get, m) {
  const i = get("query"), j = get("key"), d = get("d_k"), step = get("step"), n = get("tokens");
  const name = (t) => `<b>${n[t].replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</b>`;
  const parts = [`Query ${name(i)}, key ${name(j)}.`];
  const terms = m.Q[i].map((q, c) => `${two(q)}·${two(m.K[j][c])}`);
  if (step >= 2) parts.push(`Score: ${sum(terms)} = <b>${three(m.scores[i][j])}</b>.`);
  if (step >= 3) {
    parts.push(get("scaled") ? `Divided by √${d}: <b>${three(m.scaled[i][j])}</b>.`
      : "Not scaled.");
  }
  if (step >= 4 && get("causal")) {
    parts.push(j > i ? "The mask puts −∞ here: a later token." : "The mask allows it.");
  }
  if (step >= 5) parts.push(`Weight: its share of the row’s exponentials, <b>${three(m.weights[i][j])}</b>.`);
  if (step >= 6) {
    const blend = m.weights[i].map((w, t) => `${three(w)}·${two(m.V[t][0])}`);
    parts.push(`First number of the output for ${name(i)}: ${sum(blend)} = <b>${three(m.output[i][0])}</b>.`);
  }
  return parts.join(" ");
}

function render({ model, el }) {
  const ui = frame(model, el, "Attention, one number at a time");
  const get = (name) => model.get(name), tokens = get("tokens");
  const setter = (name) => (value) => put(model, { [name]: value });
  const mode = choice({ label: "Start from", name: "mode", options: [["x", "X and W"], ["qkv", "Q, K, V"]],
    input: (to) => {
      const made = to === "qkv" ? { matrices: { ...get("matrices"), ...inputsOf(get) } } : {};
      put(model, { ...made, mode: to, edited: EDITED[to][0] });
    } });
  const pickers = Object.fromEntries(Object.keys(EDITED).map((key) => [key, choice({ label: "Edit",
    name: "edited", input: setter("edited"), options: EDITED[key].map((one) => [one,
      one.length > 1 ? below(one[1]) : one]) })]));
  const yes = (label, name, on, off) => choice({ label, name, options: [[true, on], [false, off]],
    input: setter(name) });
  const scaled = yes("Divide by √d_k", "scaled", "yes", "no");
  const causal = yes("Causal mask", "causal", "on", "off");
  const width = slider({ label: "Width d_k: columns of Q and K that count", name: "d_k", min: 1, max: 4, step: 1,
    input: setter("d_k") });
  const list = tokens.map((token, t) => [t, token]);
  const query = choice({ label: "Query (row)", name: "query", options: list, input: setter("query") });
  const key = choice({ label: "Key (column)", name: "key", options: list, input: setter("key") });

  const cells = tokens.map((_, i) => tokens.map((__, j) => h("input", { type: "number", step: 0.1, min: -99,
    max: 99, "data-name": `cell-${i}-${j}`, "aria-label": `row ${i + 1}, column ${j + 1}`,
    style: "width:100%;min-width:0;font:inherit;font-size:16px;padding:4px 2px;text-align:center;"
      + "border:1px solid var(--line);border-radius:5px;background:var(--well);color:var(--ink)",
    oninput: (event) => {
      const value = event.target.valueAsNumber;
      const fits = Number.isFinite(value) && Math.abs(value) <= 99;
      note.textContent = fits ? "" : "A number from −99 to 99, please; until then the old one counts.";
      if (!fits) return; // half typed: wait
      const all = get("matrices"), one = get("edited");
      put(model, { matrices: { ...all, [one]: all[one].map((row, a) => row.map((v, b) =>
        (a === i && b === j ? value : v))) } });
    }, onblur: () => { note.textContent = ""; draw(); } })));
  const grid = h("div", { role: "group", style: "display:grid;grid-template-columns:repeat(4,1fr);gap:4px;"
    + "max-width:340px;margin:0 0 .8rem" }, cells.flat());
  const note = h("p", { class: "note", role: "status" });
  const back = button("◀ Back", () => setter("step")(Math.max(1, get("step") - 1)), { "data-name": "back" });
  const next = button("Next ▶", () => setter("step")(Math.min(6, get("step") + 1)), { "data-name": "next" });
  const place = h("span", { style: "padding-bottom:6px" });
  ui.controls.append(mode.node, pickers.x.node, pickers.qkv.node);
  ui.controls.after(grid);
  grid.after(h("div", { class: "controls" }, scaled.node, causal.node, width.node),
    h("div", { class: "controls" }, query.node, key.node,
      h("div", { class: "walk" }, back, next, place)));
  grid.after(note);

  function draw() {
    const m = compute(get), step = get("step"), i = get("query"), j = get("key"), d = get("d_k");
    const kind = get("mode"), x = get("mode") === "x";
    mode.set(kind);
    for (const [name, one] of Object.entries(pickers)) {
      one.node.hidden = name !== kind;
      one.set(get("edited"));
    }
    [[scaled, "scaled"], [causal, "causal"], [width, "d_k"], [query, "query"], [key, "key"]]
      .forEach(([one, name]) => one.set(get(name)));
    grid.setAttribute("aria-label", `Matrix ${get("edited")}`);
    const shown = get("matrices")[get("edited")];
    cells.forEach((row, a) => row.forEach((cell, b) => {
      if (document.activeElement !== cell) cell.value = Number(shown[a][b].toPrecision(6));
    }));
    back.disabled = step === 1;
    next.disabled = step === 6;
    place.textContent = `step ${step} of 6: ${STEPS[step - 1]}`;
    const pick = (a, b) => put(model, { query: a, key: b });
    const row = [[i, i + 1], null], one = [[i, i + 1], [j, j + 1]], other = [[j, j + 1], null];
    const of = (name, cols) => [...(x ? [`${name} = X `, ...drawnBelow(name)] : [name]), ` (4 × ${cols})`];
    const all = [
      [heat(of("Q", d), "Q", m.Q, row), heat(of("K", d), "K", m.K, other), heat(of("V", 4), "V", m.V, [null, null])],
      [heat("scores Q Kᵀ  (4 × 4)", "scores", m.scores, one, pick)],
      [heat(get("scaled") ? `scores / √${d}` : "not scaled", "scaled", m.scaled, one, pick)],
      [heat(get("causal") ? "masked" : "no mask", "masked", m.masked, one, pick)],
      [heat("weights, rows sum to 1", "weights", m.weights, row, pick)],
      [heat("output  (4 × 4)", "output", m.output, row)]];
    ui.body.style.cssText = "display:flex;flex-wrap:wrap;gap:10px 14px";
    ui.body.replaceChildren(...all.slice(0, step).flat());
    ui.say(words(get, m));
  }
  return redraw(model, ui.body, ["mode", "matrices", "edited", "d_k", "scaled", "causal", "step", "query",
    "key"], draw);
}

export default { render };
