const ANSWERS = ["A", "B", "C", "D"], COLOURS = ["blue", "orange", "green", "purple"];

// The network's answers after every symbol, and its cell states.
function recall(w, first, text, forget, cut) {
  const ids = [ANSWERS.indexOf(first), ...[...text].map((c) => 4 + c.codePointAt(0) % 4)];
  const x = matrix(ids.length, 8), held = {};
  ids.forEach((id, t) => { x.data[t * 8 + id] = 1; });
  if (forget >= 0) held.f = forget;
  if (cut) held.h = 0;
  const { h: states, c, gates } = lstm(x, w, null, held);
  const logits = linear(states, w.out, w.out_bias);
  return { c, f: gates.f, answers: ids.map((_, t) => softmax([...row(logits, t)])) };
}

function render({ model, el }) {
  const ui = frame(model, el, "Open and close the gate of a trained memory");
  const get = (name) => model.get(name);
  const field = h("input", { type: "text", maxlength: 120, "aria-label": "Noise, as you like", "data-name": "text",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:7px",
    oninput: () => { if (field.value) put(model, { text: field.value }); } });
  const first = choice({ label: "The first symbol", name: "first", options: ANSWERS.map((a) => [a, a]),
    input: (a) => put(model, { first: a }) });
  const whose = choice({ label: "Forget gate", name: "whose", options: [["own", "the network's"], ["held", "held"]],
    input: (x) => put(model, { forget: x === "held" ? Number(forget.range.value) : -1 }) });
  const forget = slider({ label: "Forget gate held at", name: "forget", min: 0, max: 1, step: 0.01, colour: "orange",
    show: fixed(2), input: (x) => put(model, { forget: x }) });
  const cut = choice({ label: "What the gates see of h", name: "cut", options: [[false, "h"], [true, "zeros"]],
    input: (x) => put(model, { cut: x }) });
  ui.controls.append(first.node, h("label", { style: "flex:1 1 100%" },
    h("span", {}, "Then noise: type anything, a character a step"), field), whose.node, cut.node, forget.node);
  let w = null, fault = "";

  function draw(width) {
    const text = get("text"), f = get("forget"), held = f >= 0;
    if (document.activeElement !== field) field.value = text;
    first.set(get("first")); cut.set(get("cut")); whose.set(held ? "held" : "own");
    if (held) forget.set(f); else forget.set(Number(forget.range.value));
    if (!w) { ui.say(fault || "The network is on its way …"); return; }
    const { c, f: own, answers } = recall(w, get("first"), text, f, get("cut")), n = answers.length;
    const view = chart({ width, height: 200, x: [1, n], y: [0, 1], xlabel: "", ylabel: "probability of each answer", right: 30 });
    ANSWERS.forEach((a, k) => {
      view.area.append(line(view, answers.map((p, t) => [t + 1, p[k]]), { class: "answer", stroke: `var(--${COLOURS[k]})`,
        "stroke-width": a === get("first") ? 3 : 1.6, "data-last": answers[n - 1][k] }));
    });
    const left = 46, units = c.cols, cell = 4, wide = (width - left - 30) / Math.max(n - 1, 1);
    const most = Math.max(...c.data.map(Math.abs), 1e-9);
    const map = s("svg", { viewBox: `0 0 ${width} ${units * cell + 62}`, height: units * cell + 62, "aria-hidden": "true" },
      s("text", { x: 2, y: 13 }, "cell states: orange above 0, blue below"));
    for (let t = 0; t < n; t++) for (let j = 0; j < units; j++) {
      const v = row(c, t)[j];
      if (Math.abs(v) < 0.02 * most) continue;
      map.append(s("rect", { x: (left + (t - 0.5) * wide).toFixed(1), y: 20 + j * cell, width: wide.toFixed(1), height: cell, "shape-rendering": "crispEdges",
        fill: `var(--${v > 0 ? "orange" : "blue"})`, opacity: Math.min(1, Math.abs(v) / most).toFixed(2) }));
    }
    map.append(s("text", { x: (left + width - 30) / 2, y: units * cell + 56, "text-anchor": "middle" }, "symbol number"));
    for (const v of ticks(1, n, width < 420 ? 5 : 10)) map.append(s("text", { class: "soft", x: left + (v - 1) * wide,
      y: units * cell + 36, "text-anchor": "middle" }, String(v)));
    const keys = h("p", { class: "note" }, ANSWERS.map((a, k) => h("span", { style: `color:var(--${COLOURS[k]});font-weight:650;margin-right:1em` },
      `— ${a}`)));
    ui.body.replaceChildren(keys, view.svg, map);
    const p = answers[n - 1], best = p.indexOf(Math.max(...p)), right = ANSWERS[best] === get("first");
    const mean = own.data.slice(own.cols).reduce((a, b) => a + b, 0) / Math.max(own.data.length - own.cols, 1);
    ui.readout.dataset.right = Number(right);
    ui.readout.dataset.p = p[ANSWERS.indexOf(get("first"))];
    ui.say(`After ${n - 1} symbols of noise it answers <b>${ANSWERS[best]}</b>, ${right ? "which is right" : `and it was ${get("first")}`} `
      + `(p = ${fixed(2)(p[ANSWERS.indexOf(get("first"))])}). `
      + (held ? `A cell keeps ${fixed(2)(f)} to the power ${n - 1} = <b>${format(f ** (n - 1))}</b> of what was written first.`
        : `Its own forget gates stand at ${fixed(2)(mean)} on average.`));
  }
  weightsOf(model).then((found) => { w = found; }, (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); });
  return redraw(model, ui.body, ["first", "text", "forget", "cut"], draw);
}

export default { render };
