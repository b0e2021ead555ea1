const TURN = 2 * Math.PI;

// The piece of a ring from one angle to another (radians, counted from the top, clockwise).
function arc(mid, r, from, to, attrs) {
  const at = (a) => `${(mid + r * Math.sin(a)).toFixed(2)} ${(mid - r * Math.cos(a)).toFixed(2)}`;
  if (to - from >= TURN - 1e-9) return s("circle", { cx: mid, cy: mid, r, fill: "none", ...attrs });
  return s("path", { fill: "none", ...attrs,
    d: `M${at(from)}A${r} ${r} 0 ${to - from > Math.PI ? 1 : 0} 1 ${at(to)}` });
}

// One pair of dimensions as a hand: where it was in training, and what is new in a longer text.
function dial(pair, omega, trained, length) {
  const seen = Math.min((trained - 1) * omega, TURN), reached = Math.min((length - 1) * omega, TURN);
  const turns = (trained - 1) * omega / TURN, fresh = Math.max(0, reached - seen);
  const svg = s("svg", { viewBox: "0 0 120 148", "aria-hidden": "true", class: "dial", "data-turns": turns,
    "data-fresh": fresh, style: "max-width:150px;margin:0 auto" },
    s("circle", { cx: 60, cy: 60, r: 44, fill: "none", stroke: "var(--line)", "stroke-width": 2 }),
    arc(60, 44, 0, Math.max(seen, 0.02), { stroke: "var(--blue)", "stroke-width": 9 }));
  if (fresh > 0.01) svg.append(arc(60, 44, seen, seen + fresh, { stroke: "var(--orange)", "stroke-width": 9 }));
  const a = (length - 1) * omega;
  svg.append(s("line", { x1: 60, y1: 60, x2: 60 + 36 * Math.sin(a), y2: 60 - 36 * Math.cos(a),
    stroke: "var(--ink)", "stroke-width": 2.5, "stroke-linecap": "round" }),
    s("text", { x: 60, y: 124, "text-anchor": "middle" }, `pair ${pair}`),
    s("text", { x: 60, y: 142, "text-anchor": "middle", class: "soft" },
      `${turns < 0.01 ? "under 0.01" : format(turns)} turns`));
  return svg;
}

// The middle of each bin of positions, and the curve of values there.
const middles = (ends) => ends.map((end, i) => (end + (ends[i - 1] ?? 0)) / 2);

function render({ model, el }) {
  const ui = frame(model, el, "Trained on 32 tokens: how far does it hold?");
  const get = (name) => model.get(name);
  const bases = get("bases"), ends = get("ends"), longest = ends[ends.length - 1];
  const names = Object.keys(get("others"));
  const base = slider({ label: "Base of the frequencies", name: "base", min: 0, max: bases.length - 1, step: 1,
    show: (i) => bases[i].toLocaleString("en"), input: (i) => put(model, { base: bases[i] }) });
  const length = slider({ label: "Length of the text", name: "length", min: 1, max: longest, step: 1,
    show: (n) => `${n} tokens`, input: (n) => put(model, { length: n }) });
  const text = h("textarea", { rows: 2, "data-name": "text", placeholder: "Type or paste a text of your own …",
    style: "width:100%;font:inherit;color:inherit;background:var(--well);border:1px solid var(--line);"
      + "border-radius:7px;padding:5px 9px;resize:vertical",
    oninput: () => {
      const words = text.value.split(/\s+/).filter(Boolean).length;
      if (words) put(model, { length: Math.min(words, longest) });
    } });
  const own = h("label", { style: "flex:1 1 100%" }, h("span", {}, "Your own text, a token a word"), text);
  const beside = choice({ label: "Beside it", name: "beside", input: (kind) => put(model, { beside: kind }),
    options: [["", "nothing"], ...names.map((kind) => [kind, kind])] });
  ui.controls.append(base.node, length.node, own, beside.node);

  function draw(width) {
    const b = get("base"), n = get("length"), trained = get("trained"), d = get("head_dim");
    const index = bases.indexOf(b), curve = get("curves")[index], kind = get("beside");
    const omegas = Array.from({ length: d / 2 }, (_, i) => b ** (-2 * i / d));
    base.set(index);
    length.set(n);
    beside.set(kind);
    const dials = h("div", { style: "display:grid;gap:4px;grid-template-columns:repeat("
      + `${width < 480 ? 2 : 4},minmax(0,1fr))` }, omegas.map((w, i) => dial(i, w, trained, n)));
    const view = chart({ width, height: 300, x: [0, longest], y: [0, 2.2],
      xlabel: "position (tokens)", ylabel: "loss above the best (nats a token)" });
    const at = middles(ends);
    view.area.append(s("rect", { x: view.px(0), y: view.py(2.2), width: view.px(trained) - view.px(0),
      height: view.py(0) - view.py(2.2), fill: "var(--well)" }));
    const place = `translate(${view.px(trained) - 6} ${view.py(2.2) + 6}) rotate(-90)`;  // no curve runs there
    view.area.append(s("text", { transform: place, "text-anchor": "end", class: "soft" }, "trained up to 32"));
    const guess = get("guessing");
    view.area.append(line(view, [[0, guess], [longest, guess]], { stroke: "var(--soft)", "stroke-dasharray": "3 4",
      "stroke-width": 1.4 }));
    view.svg.append(s("text", { x: view.px(longest) - 2, y: view.py(guess) - 6, "text-anchor": "end", class: "soft" },
      "guessing"));
    const other = kind && get("others")[kind];
    if (other) view.area.append(line(view, other.mean.map((v, i) => [at[i], v]), { stroke: "var(--purple)",
      class: "other", "stroke-dasharray": "7 4" }));
    const there = (values, i) => `${view.px(at[i]).toFixed(1)} ${view.py(values[i]).toFixed(1)}`;
    const edge = [...at.map((_, i) => there(curve.high, i)), ...at.map((_, i) => there(curve.low, i)).reverse()];
    view.area.append(s("path", { fill: "var(--blue)", "fill-opacity": 0.18, d: `M${edge.join("L")}Z` }));
    view.area.append(line(view, curve.mean.map((v, i) => [at[i], v]), { stroke: "var(--blue)", class: "curve" }));
    curve.mean.forEach((v, i) => view.area.append(s("circle", { class: "point", cx: view.px(at[i]), cy: view.py(v),
      r: 2.6, fill: "var(--blue)", "data-position": at[i], "data-value": v })));
    const bin = ends.findIndex((end) => end >= n), value = curve.mean[bin];
    view.area.append(s("line", { x1: view.px(n), x2: view.px(n), y1: view.py(0), y2: view.py(2.2),
      stroke: "var(--orange)", "stroke-width": 1.6 }),
      s("circle", { cx: view.px(at[bin]), cy: view.py(value), r: 6, fill: "var(--orange)" }));
    ui.body.replaceChildren(dials, view.svg);
    const short = omegas.filter((w) => (trained - 1) * w < TURN).length;
    const verdict = value < 0.1 ? "as good as in training" : value < guess ? "worse, still better than guessing"
      : "worse than guessing";
    ui.say(`Base <b>${b.toLocaleString("en")}</b>: ${short} of ${d / 2} pairs never finished a turn in training. `
      + `Around token <b>${n}</b> the models lose <b>${fixed(2)(value)}</b> nats more than the best possible `
      + `(${curve.n} seeds: ${fixed(2)(curve.low[bin])} to ${fixed(2)(curve.high[bin])}): <b>${verdict}</b>.`
      + (other ? ` ${kind}: ${bin < other.mean.length ? fixed(2)(other.mean[bin]) : "has no position there"}.` : ""));
    Object.assign(ui.readout.dataset, { value, short });
  }
  return redraw(model, ui.body, ["base", "length", "beside"], draw);
}

export default { render };
