const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

function present(get) {
  const n = get("n"), i = get("source"), j = get("target"), causal = get("causal");
  return { n, i, j, causal, rnn: j >= i ? j - i : null, attention: j >= i || !causal ? 1 : null,
    rnnEdges: n - 1, attentionEdges: causal ? n * (n + 1) / 2 : n * n };
}

function picture(width, now) {
  const { n, i, j, causal } = now;
  const left = 14, span = width - 2 * left, x = (t) => left + (t - 1) / (n - 1) * span;
  const r = Math.max(2, Math.min(8, span / n / 3)), chain = 56, out = 130, inp = 250;
  const svg = s("svg", { viewBox: `0 0 ${width} 290`, height: 290, "aria-hidden": "true" });
  const label = (y, text) => svg.append(s("text", { x: 2, y }, text));
  const strong = { stroke: "var(--orange)", "stroke-width": 3, fill: "none" };
  const node = (t, y, colour) => svg.append(s("circle", { cx: x(t).toFixed(2), cy: y,
    r: t === i || t === j ? r + 1.5 : r, fill: `var(--${colour})`, stroke: "var(--paper)" }));
  const mark = (t, y) => svg.append(s("text", { x: Math.min(width - 9, Math.max(9, x(t))), y,
    "text-anchor": "middle", style: "font-weight:650" }, String(t)));

  label(15, "RNN: a chain of states");
  svg.append(s("path", { class: "chain", d: `M${x(1)} ${chain}H${x(n)}`, stroke: "var(--soft)" }));
  if (now.rnn) svg.append(s("path", { class: "rnn-path", d: `M${x(i)} ${chain}H${x(j)}`, ...strong }));
  for (let t = 1; t <= n; t++) node(t, chain, now.rnn !== null && t >= i && t <= j ? "orange" : "soft");
  mark(i, chain + 27);
  if (j !== i) mark(j, chain + 27);

  label(112, causal ? "attention: each reads up to itself" : "attention: all read all");
  const lines = [];
  for (let from = 1; from <= n; from++) {
    for (let to = causal ? from : 1; to <= n; to++) {
      lines.push(`M${x(from).toFixed(1)} ${inp}L${x(to).toFixed(1)} ${out}`);
    }
  }
  svg.append(s("path", { class: "all", d: lines.join(""), stroke: "var(--soft)", fill: "none",
    "stroke-width": 0.7, opacity: Math.max(0.12, Math.min(0.6, 8 / n)), "data-count": lines.length }));
  if (now.attention) {
    svg.append(s("path", { class: "attention-path", d: `M${x(i)} ${inp}L${x(j)} ${out}`, ...strong }));
  }
  for (let t = 1; t <= n; t++) {
    node(t, inp, t === i ? "orange" : "soft");
    node(t, out, t === j && now.attention ? "orange" : "blue");
  }
  mark(i, inp + 27);
  return svg;
}

function table(now) {
  const cell = (tag, text, style = "") => h(tag, { style: `padding:2px 10px 2px 0;text-align:left;${style}` }, text);
  const row = (name, kind, rnn, attention) => h("tr", {}, cell("th", name, "font-weight:400"),
    ...[["rnn", rnn], ["attention", attention]].map(([who, value]) => h("td", { "data-name": `${kind}-${who}`,
      "data-value": value ?? -1, style: "padding:2px 14px 2px 0;font-weight:650" },
      value === null ? "no way" : value.toLocaleString("en"))));
  return h("table", { style: "border-collapse:collapse;margin:.3rem 0 0;background:none;color:inherit;border:0" },
    h("thead", {}, h("tr", {}, cell("th", ""), cell("th", "RNN"), cell("th", "attention"))),
    h("tbody", {}, row("steps on the path", "steps", now.rnn, now.attention),
      row("connections in all", "edges", now.rnnEdges, now.attentionEdges),
      row("steps that must wait for one another", "depth", now.n - 1, 1)));
}

function render({ model, el }) {
  const ui = frame(model, el, "How far is it from one word to another?");
  const get = (name) => model.get(name);
  const setter = (name) => (value) => put(model, { [name]: value });
  const length = slider({ label: "Length n", name: "n", min: 2, max: 64, step: 1, input: (n) => {
    const last = get("target") === get("n"); // keep the far end at the far end
    put(model, { source: Math.min(get("source"), n), target: last ? n : Math.min(get("target"), n), n });
  } });
  const source = slider({ label: "From position", name: "source", min: 1, max: 64, step: 1, input: setter("source") });
  const target = slider({ label: "To position", name: "target", min: 1, max: 64, step: 1, input: setter("target") });
  const causal = choice({ label: "Causal mask", name: "causal", options: [[false, "off"], [true, "on"]],
    input: setter("causal") });
  ui.controls.append(length.node, source.node, target.node, causal.node);

  function draw(width) {
    const now = present(get);
    for (const one of [source, target]) one.range.max = now.n;
    length.set(now.n);
    source.set(now.i);
    target.set(now.j);
    causal.set(now.causal);
    ui.body.replaceChildren(picture(width, now), table(now));
    const rnn = now.rnn === null ? "an RNN has no way (it reads forwards only)"
      : `an RNN takes <b>${many(now.rnn, "step")}</b>`;
    const attention = now.attention === null ? "the mask leaves attention no way back"
      : `attention takes <b>${many(now.attention, "step")}</b>`;
    ui.say(`From position ${now.i} to ${now.j}, ${rnn}; ${attention}. In all attention has `
      + `<b>${many(now.attentionEdges, "connection")}</b>, the RNN ${now.rnnEdges}.`);
  }
  return redraw(model, ui.body, ["n", "source", "target", "causal"], draw);
}

export default { render };
