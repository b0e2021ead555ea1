// π(y) / π_old(y) against the term that PPO maximises, min(w A, clip(w) A), and its slope.
function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "PPO's clipped objective, one token");
  const bar = (label, name, min, max, step) => slider({ label, name, min, max, step,
    show: fixed(2), input: (v) => put(model, { [name]: v }) });
  const bars = { advantage: bar("Advantage A", "advantage", -2, 2, 0.1),
    ratio: bar("Ratio w, where the policy is now", "ratio", 0.2, 2, 0.01),
    low: bar("Clip below: 1 − ε", "low", 0.05, 0.9, 0.01),
    high: bar("Clip above: 1 + ε", "high", 0.05, 0.9, 0.01) };
  ui.controls.append(...Object.values(bars).map((one) => one.node));

  function draw(width) {
    const v = Object.fromEntries(Object.keys(bars).map((name) => [name, get(name)]));
    for (const [name, one] of Object.entries(bars)) one.set(v[name]);
    const cut = (r) => Math.min(1 + v.high, Math.max(1 - v.low, r));
    const value = (r) => Math.min(r * v.advantage, cut(r) * v.advantage);
    const stopped = (v.advantage > 0 && v.ratio > 1 + v.high)
      || (v.advantage < 0 && v.ratio < 1 - v.low) || v.advantage === 0;
    const slope = stopped ? 0 : v.advantage;
    const c = chart({ width, height: 300, x: [0.2, 2], y: [-4, 4],
      xlabel: "ratio w = π(y) / π_old(y)", ylabel: "objective (reward units)" });
    const at = Array.from({ length: 181 }, (_, i) => 0.2 + i / 100);
    for (const edge of [1 - v.low, 1 + v.high]) {
      c.area.append(s("line", { class: "grid", x1: c.px(edge), x2: c.px(edge), y1: c.py(-4),
        y2: c.py(4), "stroke-dasharray": "4 4" }));
    }
    c.area.append(line(c, at.map((r) => [r, r * v.advantage]), { stroke: "var(--soft)",
      "stroke-dasharray": "6 5" }),
    line(c, at.map((r) => [r, value(r)]), { stroke: "var(--blue)", "stroke-width": 3 }),
    s("circle", { class: "here", cx: c.px(v.ratio), cy: c.py(value(v.ratio)), r: 6,
      fill: stopped ? "var(--paper)" : "var(--orange)", stroke: "var(--orange)",
      "stroke-width": 2.5 }));
    ui.body.replaceChildren(c.svg, h("p", { class: "note" }, "Dashed: without the clip. Blue: "
      + "with it. A full dot is pushed on, an empty one has no gradient."));
    Object.assign(ui.readout.dataset, { value: value(v.ratio).toFixed(4), slope: slope.toFixed(4) });
    ui.say(`Objective <b>${fixed(2)(value(v.ratio))}</b>, slope by w <b>${fixed(2)(slope)}</b>. `
      + (v.advantage === 0 ? "An advantage of 0 says nothing."
        : stopped ? "Already pushed beyond the clip in the direction that A favours: no gradient."
          : v.ratio > 1 + v.high || v.ratio < 1 - v.low
            ? "Beyond the clip, but in the direction that A does not favour: it is pulled back."
            : "Inside the clip: the token is pushed as if there were none."));
  }
  return redraw(model, ui.body, Object.keys(bars), draw);
}

export default { render };
