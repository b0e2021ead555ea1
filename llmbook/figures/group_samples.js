// As GroupSamples.reading: rewards less their mean, over the sample's deviation when scaled.
function reading(one, scale) {
  const { rewards, texts, ended } = one, n = rewards.length;
  const mean = rewards.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / (n - 1));
  return { mean, right: one.right.reduce((a, b) => a + b, 0) / n,
    advantages: rewards.map((r) => (r - mean) / (scale ? deviation + 1e-4 : 1)),
    lengths: texts.map((text, i) => text.split(" ").filter(Boolean).length + (ended[i] ? 1 : 0)) };
}

function render({ model, el }) {
  const get = (name) => model.get(name), runs = get("runs");
  const ui = frame(model, el, "A group of answers, step by step");
  const which = choice({ label: "Reward", name: "run",
    options: runs.map(([name], i) => [i, name]),
    input: (i) => put(model, { run: Number(i), at: Math.min(get("at"), runs[i][2].length - 1) }) });
  const longest = Math.max(...runs.map(([, , steps]) => steps.length)) - 1;
  const at = slider({ label: "Updates so far", name: "at", min: 0, max: longest, step: 1,
    show: (i) => String(runs[get("run")][2][i]?.step ?? ""), input: (i) => put(model, { at: i }) });
  const scale = choice({ label: "Advantage", name: "scale",
    options: [[true, "over the deviation"], [false, "centred only"]],
    input: (v) => put(model, { scale: v }) });
  ui.controls.append(which.node, scale.node, at.node);

  function draw(width) {
    const [, question, steps] = runs[get("run")];
    const place = Math.min(get("at"), steps.length - 1), one = steps[place];
    const r = reading(one, get("scale"));
    which.set(get("run"));
    at.set(place);
    scale.set(get("scale"));
    const narrow = width < 520, row = narrow ? 44 : 28, top = 26, n = one.texts.length;
    const middle = narrow ? width * 0.62 : width * 0.72, room = Math.min(width - middle - 58, 120);
    const most = Math.max(1e-9, ...r.advantages.map(Math.abs), get("scale") ? 2 : 1);
    const svg = s("svg", { viewBox: `0 0 ${width} ${top + n * row + 4}`, height: top + n * row + 4,
      "aria-hidden": "true" });
    svg.append(s("text", { class: "soft", x: 0, y: 13 }, narrow ? "answer, reward" : "answer"),
      s("text", { class: "soft", x: middle, y: 13, "text-anchor": "middle" }, "advantage"),
      s("text", { class: "soft", x: width - 2, y: 13, "text-anchor": "end" }, "tokens"));
    if (!narrow) svg.append(s("text", { class: "soft", x: middle - room - 60, y: 13,
      "text-anchor": "middle" }, "reward"));
    one.texts.forEach((text, i) => {
      const y = top + i * row, a = r.advantages[i], up = a >= 0;
      const mark = one.right[i] ? "✓" : "✗", line1 = `${mark} ${text || "(nothing)"}`;
      const bar = Math.abs(a) / most * room, by = narrow ? y + 24 : y + 4;
      svg.append(s("text", { class: "answer", x: 0, y: y + 17, "font-family": "ui-monospace, monospace",
        style: one.right[i] ? "fill:var(--green);font-weight:650" : undefined }, line1),
        s("text", { x: narrow ? 0 : middle - room - 60, y: narrow ? y + 36 : y + 17,
          "text-anchor": narrow ? "start" : "middle" }, (narrow ? "reward " : "") + one.rewards[i]),
        s("line", { x1: middle, x2: middle, y1: by - 3, y2: by + 19, class: "axis" }),
        s("rect", { class: "advantage", "data-row": i, "data-value": a.toFixed(4),
          x: up ? middle : middle - bar, y: by, width: bar, height: 16, rx: 2,
          fill: up ? "var(--blue)" : "var(--orange)" }),
        s("text", { class: "length", "data-row": i, x: width - 2, y: narrow ? y + 36 : y + 17,
          "text-anchor": "end" }, String(r.lengths[i])));
    });
    const all = steps.map((step) => reading(step, true)), last = steps.at(-1).step;
    const view = chart({ width, height: 190, x: [0, last], y: [0, 1], xlabel: "updates",
      ylabel: "share of the eight" });
    view.area.append(
      line(view, all.map((v, i) => [steps[i].step, v.mean]), { stroke: "var(--blue)" }),
      line(view, all.map((v, i) => [steps[i].step, v.right]), { stroke: "var(--green)",
        "stroke-dasharray": "6 3" }),
      s("line", { x1: view.px(one.step), x2: view.px(one.step), y1: view.py(0), y2: view.py(1),
        stroke: "var(--soft)", "stroke-dasharray": "2 4" }));
    ui.body.replaceChildren(
      h("p", { style: "margin:.2rem 0 .5rem" }, `${question.k} steps on from ${question.start}: `,
        h("code", {}, question.path)), svg, view.svg,
      h("p", { class: "note" }, h("span", { style: "color:var(--blue);font-weight:650" }, "— "),
        "mean reward   ", h("span", { style: "color:var(--green);font-weight:650" }, "– – "),
        "really right"));
    Object.assign(ui.readout.dataset, { mean: r.mean.toFixed(4), right: r.right.toFixed(4) });
    ui.say(`After ${one.step} updates: mean reward <b>${r.mean.toFixed(2)}</b>, really right `
      + `<b>${(100 * r.right).toFixed(0)}%</b>, ${(r.lengths.reduce((a, b) => a + b, 0) / n).toFixed(1)} `
      + `tokens on average${r.advantages.every((a) => Math.abs(a) < 1e-9)
        ? ". All rewards are equal: nothing to learn here." : "."}`);
  }
  return redraw(model, ui.body, ["run", "at", "scale"], draw);
}

export default { render };
