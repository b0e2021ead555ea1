const WIDTHS = [4, 8, 12, 16], HEADS = [1, 2, 4];
const two = fixed(2), one = fixed(1);
const mean = (v) => v.reduce((a, b) => a + b, 0) / v.length;

// Plain matrices as lists of rows.
const grid = (n, m, f) => Array.from({ length: n }, (_, i) => Array.from({ length: m }, (_, j) => f(i, j)));
const product = (a, b) => grid(a.length, b[0].length,
  (i, j) => a[i].reduce((sum, v, k) => sum + v * b[k][j], 0));
const flip = (a) => grid(a[0].length, a.length, (i, j) => a[j][i]);
const add = (a, b) => a.map((row, i) => row.map((v, j) => v + b[i][j]));
const norm = (x) => x.map((row) => {
  const m = mean(row), spread = Math.sqrt(mean(row.map((v) => (v - m) ** 2)) + 1e-5);
  return row.map((v) => (v - m) / spread);
});
const softmax = (row) => {
  const top = Math.max(...row), e = row.map((v) => Math.exp(v - top));
  const sum = e.reduce((a, b) => a + b);
  return e.map((v) => v / sum);
};
const fixedWeights = (which, rows, columns) => grid(rows, columns, (i, j) => {
  const x = Math.sin(12.9898 * (i + 1) + 78.233 * (j + 1) + 37.719 * which) * 4375.85453;
  return (2 * (x - Math.floor(x)) - 1) * Math.sqrt(3 / rows);
});

// Every stage for one sequence, as blocks.py computes it; one matrix, or one a head.
function trace(n, d, heads, vocab) {
  const size = d / heads;
  const table = fixedWeights(0, vocab, d).map((row) => row.map((v) => v * Math.sqrt(vocab / d)));
  const x = grid(n, d, (t, j) => Math.sqrt(d) * table[t][j]
    + (j % 2 ? Math.cos : Math.sin)(t / 10000 ** ((j - j % 2) / d)));
  const z = norm(x);
  const cut = (m) => Array.from({ length: heads }, (_, h) =>
    m.map((row) => row.slice(h * size, (h + 1) * size)));
  const [q, k, v] = [1, 2, 3].map((w) => cut(product(z, fixedWeights(w, d, d))));
  const scores = q.map((m, h) => product(m, flip(k[h])).map((row, i) =>
    row.map((s, j) => (j > i ? -Infinity : s / Math.sqrt(size)))));
  const weights = scores.map((m) => m.map(softmax));
  const found = weights.map((m, h) => product(m, v[h]));
  const joined = grid(n, d, (t, j) => found[Math.floor(j / size)][t][j % size]);
  const output = product(joined, fixedWeights(4, d, d));
  const mid = add(x, output), z2 = norm(mid);
  const hidden = product(z2, fixedWeights(5, d, 4 * d)).map((row) => row.map((a) => Math.max(a, 0)));
  const ffn = product(hidden, fixedWeights(6, 4 * d, d)), end = add(mid, ffn);
  return { x, z, q, k, v, scores, weights, found, output, mid, z2, hidden, ffn, end,
    logits: product(norm(end), flip(table)) };
}

// name, what it is, parts to draw, the shape after the batch, how it comes about
const STAGES = [
  ["embedding", "√d · table row + position", (t) => [["x", t.x]], (n, d) => [n, d],
    "Each token's row of the table, times √d, plus its place. This is the stream."],
  ["norm", "LayerNorm(x)", (t) => [["z", t.z]], (n, d) => [n, d],
    "Each row now has mean 0 and variance 1. The stream itself stays as it was."],
  ["QKV", "z · W_Q, z · W_K, z · W_V", (t, h) => [["Q", t.q[h]], ["K", t.k[h]], ["V", t.v[h]]],
    (n, d, h) => [h, n, d / h], "Three products; the width is cut into heads."],
  ["scores", "Q · Kᵀ / √d_head, masked", (t, h) => [["scores", t.scores[h]]], (n, d, h) => [h, n, n],
    "Rows ask, columns answer. The future is −∞."],
  ["weights", "softmax of each row", (t, h) => [["weights", t.weights[h]]], (n, d, h) => [h, n, n],
    "Each row sums to 1; what is masked weighs exactly 0."],
  ["heads", "weights · V", (t, h) => [["found", t.found[h]]], (n, d, h) => [h, n, d / h],
    "Each token's blend of the values it looked at, head by head."],
  ["output", "joined heads · W_O", (t) => [["output", t.output]], (n, d) => [n, d],
    "Heads side by side again, and mixed."],
  ["residual", "x + output", (t) => [["x", t.mid]], (n, d) => [n, d],
    "Added to the stream: nothing of x is lost."],
  ["norm 2", "LayerNorm(x)", (t) => [["z", t.z2]], (n, d) => [n, d], "Once more, for the FFN."],
  ["hidden", "max(0, z · W_1)", (t) => [["hidden", t.hidden]], (n, d) => [n, 4 * d],
    "Four times as wide, and about half of it zero. No token sees another here."],
  ["FFN", "hidden · W_2", (t) => [["output", t.ffn]], (n, d) => [n, d], "Back to the width of the stream."],
  ["residual 2", "x + FFN", (t) => [["x", t.end]], (n, d) => [n, d],
    "The end of the block. The next one starts here, with the same shape."],
  ["logits", "LayerNorm(x) · tableᵀ", (t) => [["logits", t.logits]], (n, d, h, vocab) => [n, vocab],
    "After the last block: one score for each word of the vocabulary, at every place."],
];

// A matrix with its numbers; columns that do not fit are counted instead.
function matrix(name, m, { width, left, top, rows, columns }) {
  const room = Math.max(2, Math.floor((width - left - 2) / 33));
  const shown = Math.min(m[0].length, room), w = Math.min(52, (width - left - 2) / shown), tall = 26;
  const show = w < 40 ? one : two;
  const most = Math.max(...m.flat().filter(Number.isFinite).map(Math.abs), 1e-9);
  const g = s("g", { transform: `translate(${left} ${top + 20})` });
  const more = m[0].length - shown;
  g.append(s("text", { x: 0, y: -7, class: columns ? "soft" : "" },
    columns ? "" : `${name}${more ? `, first ${shown} of ${m[0].length} columns` : ""}`));
  if (columns) {
    columns.slice(0, shown).forEach((text, j) => g.append(s("text", { class: "soft",
      x: (j + 0.5) * w, y: -7, "text-anchor": "middle" }, text)));
  }
  m.forEach((row, i) => {
    g.append(s("text", { x: -7, y: (i + 0.5) * tall + 4.5, "text-anchor": "end" }, rows[i]));
    row.slice(0, shown).forEach((v, j) => {
      const strength = Number.isFinite(v) ? 0.45 * Math.abs(v) / most : 0;
      g.append(s("rect", { x: j * w, y: i * tall, width: w, height: tall, stroke: "var(--line)",
        fill: v < 0 ? "var(--orange)" : "var(--blue)", "fill-opacity": strength.toFixed(3),
        class: "cell", "data-name": name, "data-i": i, "data-j": j,
        "data-value": Number.isFinite(v) ? v : -1e308 }),
      s("text", { x: (j + 0.5) * w, y: (i + 0.5) * tall + 4.5, "text-anchor": "middle",
        style: "font-size:12.5px" }, Number.isFinite(v) ? show(v) : "−∞"));
    });
  });
  return [g, 20 + m.length * tall + 12];
}

function render({ model, el }) {
  const ui = frame(model, el, "One block, step by step");
  const get = (name) => model.get(name);
  const words = get("words");
  const go = (stage) => put(model, { stage: Math.max(0, Math.min(STAGES.length - 1, stage)) });
  const sliders = {
    batch: slider({ label: "Batch", name: "batch", min: 1, max: 8, step: 1,
      input: (batch) => put(model, { batch }) }),
    tokens: slider({ label: "Tokens", name: "tokens", min: 2, max: words.length, step: 1,
      input: (tokens) => put(model, { tokens }) }),
    d_model: slider({ label: "d_model", name: "d_model", min: 4, max: 16, step: 4,
      input: (d_model) => put(model, { d_model }) }),
  };
  const heads = choice({ label: "Heads", name: "heads", options: HEADS.map((n) => [n, String(n)]),
    input: (n) => put(model, { heads: n, head: Math.min(get("head"), n - 1) }) });
  const back = button("◀ Back", () => go(get("stage") - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(get("stage") + 1), { "data-name": "next" });
  ui.controls.append(...Object.values(sliders).map((one) => one.node), heads.node,
    h("div", { class: "walk" }, back, next));
  const chips = STAGES.map(([name], i) => h("button", { type: "button", "data-stage": i,
    onclick: () => go(i), style: "padding:3px 8px;min-height:30px;font-size:13.5px" }, name));
  ui.controls.after(h("div", { class: "tokens", role: "group", "aria-label": "Stages" }, chips));
  const which = h("div", { class: "tokens", role: "group", "aria-label": "Head that is shown" });
  ui.body.before(which);
  const note = h("p", { class: "note" });
  ui.readout.after(note);

  function draw(width) {
    const [batch, n, d, count] = ["batch", "tokens", "d_model", "heads"].map(get);
    const stage = get("stage"), head = Math.min(get("head"), count - 1);
    const [name, formula, parts, shape, why] = STAGES[stage];
    for (const key of Object.keys(sliders)) sliders[key].set(get(key));
    heads.set(count);
    back.disabled = stage === 0;
    next.disabled = stage === STAGES.length - 1;
    chips.forEach((chip, i) => chip.setAttribute("aria-current", String(i === stage)));
    const all = trace(n, d, count, words.length);
    const byHead = stage >= 2 && stage <= 5;
    which.hidden = !byHead || count === 1;
    which.replaceChildren(...Array.from({ length: count }, (_, i) => h("button", { type: "button",
      "data-head": i, "aria-current": String(i === head), onclick: () => put(model, { head: i }) },
    `head ${i + 1}`)));
    const rows = words.slice(0, n), left = 12 + 7.6 * Math.max(...rows.map((w) => w.length));
    const square = name === "scores" || name === "weights";
    const columns = square ? rows : name === "logits" ? words : null;
    const svg = s("svg", { "aria-hidden": "true" });
    let top = 0;
    for (const [title, m] of parts(all, head)) {
      const [drawing, tall] = matrix(title, m, { width, left, top, rows, columns });
      svg.append(drawing);
      top += tall;
    }
    svg.setAttribute("viewBox", `0 0 ${width} ${top}`);
    ui.body.replaceChildren(svg);
    const dims = [batch, ...shape(n, d, count, words.length)];
    const numbers = dims.reduce((a, b) => a * b) * (name === "QKV" ? 3 : 1);
    ui.readout.dataset.shape = dims.join(" ");
    ui.readout.dataset.numbers = numbers;
    ui.say(`${stage + 1} of ${STAGES.length}, <b>${name}</b>: ${formula}. Shape `
      + `<b>(${dims.join(", ")})</b>${name === "QKV" ? ", three times" : ""}: ${numbers} numbers.`);
    note.textContent = `${why} Shown: the first of ${batch} sequence${batch > 1 ? "s" : ""}`
      + `${byHead ? `, head ${head + 1} of ${count}` : ""}.`;
  }
  return redraw(model, ui.body, ["batch", "tokens", "d_model", "heads", "stage", "head"], draw);
}

export default { render };
