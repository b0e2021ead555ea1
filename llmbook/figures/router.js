const EXPERTS = 8, WIDTH = 6, MOST_WORDS = 24, BIAS_RATE = 0.02, SHARPNESS = 2.5, CONTEXT = 0.4;
const HUES = ["blue", "orange", "green", "purple"];

// As word_vector in router.py: FNV-1a over the bytes, then mixed.
function vector(word) {
  const out = [];
  for (let place = 0; place < WIDTH; place++) {
    let value = 2166136261;
    for (const byte of new TextEncoder().encode(`${place}/${word}`)) {
      value = Math.imul(value ^ byte, 16777619) >>> 0;
    }
    value = (value ^ (value >>> 16)) >>> 0;
    value = Math.imul(value, 2246822507) >>> 0;
    value = (value ^ (value >>> 13)) >>> 0;
    out.push(value / 2147483648 - 1);
  }
  return out;
}

function softmax(row) {
  const most = Math.max(...row), powers = row.map((v) => Math.exp(v - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

const best = (scores, k) => scores.map((v, i) => [v, i])
  .sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, k).map(([, i]) => i);

function count(rows) {
  const out = Array(EXPERTS).fill(0);
  for (const row of rows) for (const i of row) if (i >= 0) out[i] += 1;
  return out;
}

function route({ text, k, temperature, favour, capacity, balance, weight }) {
  const words = text.split(/\s+/).filter(Boolean).slice(0, MOST_WORDS);
  const vectors = words.map(vector), n = words.length;
  const logits = vectors.map((v, t) => weight.map((row, i) => SHARPNESS * row.reduce((sum, w, j) =>
    sum + w * (v[j] + (t ? CONTEXT * vectors[t - 1][j] : 0)), 0) + (i ? 0 : favour)));
  const probabilities = logits.map(softmax);
  const bias = Array(EXPERTS).fill(0);
  const want = () => probabilities.map((row) => best(row.map((p, i) => p + bias[i]), k));
  for (let step = 0; step < balance; step++) {
    count(want()).forEach((c, i) => { bias[i] += BIAS_RATE * Math.sign(n * k / EXPERTS - c); });
  }
  const wanted = want(), asked = count(wanted);
  const weights = wanted.map((row, t) => softmax(row.map((i) => logits[t][i] / temperature)));
  const room = capacity > 0 ? Math.ceil(capacity * n * k / EXPERTS) : Infinity;
  const left = Array(EXPERTS).fill(room), chosen = wanted.map((row) => [...row]);
  for (let slot = 0; slot < k; slot++) {
    for (const row of chosen) {
      if (left[row[slot]] === 0) row[slot] = -1;
      else left[row[slot]] -= 1;
    }
  }
  const share = asked.map((c) => c / Math.max(1, n * k));
  const mean = Array.from({ length: EXPERTS }, (_, i) =>
    probabilities.reduce((sum, row) => sum + row[i], 0) / Math.max(1, n));
  return { words, wanted, chosen, weights, asked, room, counts: count(chosen),
    largest: Math.max(...share), loss: EXPERTS * share.reduce((sum, f, i) => sum + f * mean[i], 0),
    dropped: chosen.flat().filter((i) => i < 0).length,
    lost: chosen.filter((row) => row.every((i) => i < 0)).length };
}

function render({ model, el }) {
  const names = ["text", "k", "temperature", "favour", "capacity", "balance", "weight"];
  const get = (name) => model.get(name);
  const ui = frame(model, el, "A router sends words to experts");
  const input = h("textarea", { rows: 2, maxlength: 300, "data-name": "text",
    "aria-label": "Your text, at most 24 words", style: "width:100%;box-sizing:border-box;"
      + "font:inherit;padding:6px 9px;border:1px solid var(--line);border-radius:7px;"
      + "background:var(--well);color:var(--ink);resize:vertical",
    oninput: () => { if (input.value.trim()) put(model, { text: input.value }); } });
  const which = choice({ label: "Experts a word", name: "k", options: [1, 2, 3, 4].map((k) => [k, k]),
    input: (k) => put(model, { k: Number(k) }) });
  const bar = (label, name, min, max, step, show) => slider({ label, name, min, max, step, show,
    input: (v) => put(model, { [name]: v }) });
  const bars = {
    temperature: bar("Temperature", "temperature", 0.1, 4, 0.1, fixed(1)),
    favour: bar("Favourite: expert 1's advantage", "favour", 0, 4, 0.5, fixed(1)),
    capacity: bar("Capacity", "capacity", 0, 4, 0.25, (v) => (v ? `${v} × even share` : "no limit")),
    balance: bar("Balancing steps", "balance", 0, 60, 1),
  };
  ui.controls.append(h("div", { style: "flex:1 1 100%" }, input), which.node,
    ...Object.values(bars).map((one) => one.node));

  function draw(width) {
    const state = Object.fromEntries(names.map((name) => [name, get(name)]));
    if (document.activeElement !== input) input.value = state.text;
    which.set(state.k);
    for (const [name, one] of Object.entries(bars)) one.set(state[name]);
    const r = route(state), n = r.words.length, { k } = state;

    // Words in a column on the left, experts on the right: where lines end is who reads what.
    const narrow = width < 480, row = 19, top = 24;
    const height = top + Math.max(n * row, EXPERTS * 34) + 8;
    const from = narrow ? 92 : 150, to = narrow ? width - 128 : width - 260;
    const y = (t) => top + (t + 0.5) * (height - top) / n;
    const at = (i) => top + (i + 0.5) * (height - top) / EXPERTS;
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `${n} words, ${EXPERTS} experts` });
    svg.append(s("text", { class: "soft", x: from - 8, y: 12, "text-anchor": "end" }, "word"),
      s("text", { class: "soft", x: to + 8, y: 12 }, narrow ? "expert, its words" : "expert and its words"));
    r.wanted.forEach((experts, t) => experts.forEach((i, j) => {
      const kept = r.chosen[t][j] >= 0, middle = (from + to) / 2;
      svg.append(s("path", { class: "flow", "data-word": t, "data-expert": i, "data-kept": kept ? 1 : 0,
        "data-weight": r.weights[t][j].toFixed(4), fill: "none",
        d: `M${from} ${y(t)}C${middle} ${y(t)} ${middle} ${at(i)} ${to} ${at(i)}`,
        stroke: kept ? `var(--${HUES[i % 4]})` : "var(--soft)",
        "stroke-dasharray": kept ? (i < 4 ? undefined : "7 2") : "2 4",
        "stroke-width": kept ? 0.6 + 3.4 * r.weights[t][j] : 1, opacity: kept ? 0.8 : 0.7 }));
    }));
    const letters = narrow ? 10 : 17;
    r.words.forEach((word, t) => {
      const short = word.length > letters ? word.slice(0, letters - 1) + "…" : word;
      const lost = r.chosen[t].every((i) => i < 0);
      svg.append(s("text", { class: "word", x: from - 8, y: y(t) + 4.5, "text-anchor": "end",
        "text-decoration": lost ? "line-through" : undefined }, short));
    });
    const longest = Math.max(...r.asked, r.room === Infinity ? 0 : r.room, 2 * n * k / EXPERTS);
    const room = width - to - 40, x = (c) => to + 30 + c / longest * room;
    for (let i = 0; i < EXPERTS; i++) {
      const hue = `var(--${HUES[i % 4]})`;
      svg.append(s("text", { x: to + 8, y: at(i) + 5, "font-weight": 650 }, String(i + 1)),
        s("rect", { x: x(0), y: at(i) - 9, height: 18, width: x(r.asked[i]) - x(0), fill: "none",
          stroke: "var(--soft)", "stroke-dasharray": "2 3" }),
        s("rect", { class: "load", "data-expert": i, "data-count": r.counts[i], x: x(0),
          y: at(i) - 9, height: 18, width: x(r.counts[i]) - x(0), rx: 3,
          fill: `color-mix(in srgb, ${hue} 45%, var(--paper))`, stroke: hue }));
    }
    const lineAt = (c, label, dash) => svg.append(s("line", { x1: x(c), x2: x(c), y1: top,
      y2: height, stroke: "var(--ink)", "stroke-dasharray": dash, "aria-label": label }));
    lineAt(n * k / EXPERTS, "even share", "5 4");
    if (r.room !== Infinity && r.room <= longest) lineAt(r.room, "capacity", undefined);
    ui.body.replaceChildren(svg, h("p", { class: "note" }, "Dashed upright: the even share. Full "
      + "upright: the capacity. Dotted: words that wanted in and were dropped. A thicker line is a "
      + "larger weight."));
    Object.assign(ui.readout.dataset, { largest: r.largest.toFixed(4), loss: r.loss.toFixed(4),
      dropped: r.dropped });
    ui.say(`${n} words, ${n * k} places. Largest load <b>${(100 * r.largest).toFixed(0)}%</b> `
      + `(even: ${(100 / EXPERTS).toFixed(1)}%), balance loss <b>${r.loss.toFixed(2)}</b> (even: 1). `
      + (r.room === Infinity ? "No limit, nothing dropped."
        : `Capacity ${r.room}: <b>${r.dropped}</b> dropped, ${r.lost} words with no expert at all.`));
  }
  const clean = redraw(model, ui.body, names, draw);
  return clean;
}

export default { render };
