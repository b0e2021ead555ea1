// Proxy and true reward of a run against √KL, up to a step; other runs' true rewards in grey.
function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "How far, and what for: reward against KL");
  const runs = get("runs");
  const which = choice({ label: "Method", name: "run", options: runs.map(([name], i) => [i, name]),
    input: (i) => put(model, { run: Number(i) }) });
  const most = () => runs[get("run")][1].length - 1;
  const bar = slider({ label: "Stop after step", name: "step", min: 0,
    max: Math.max(...runs.map(([, points]) => points.length - 1)), step: 1,
    input: (v) => put(model, { step: v }) });
  ui.controls.append(which.node, bar.node);
  const far = runs.flatMap(([, points]) => points.map(([kl]) => Math.sqrt(Math.max(0, kl))));
  const high = runs.flatMap(([, points]) => points.flatMap(([, a, b]) => [a, b]));
  const x = [0, Math.max(1, ...far) * 1.04];
  const y = [Math.floor(Math.min(...high)), Math.ceil(Math.max(...high))];

  function draw(width) {
    const at = Math.min(get("step"), most());
    which.set(get("run"));
    bar.set(get("step"));
    const c = chart({ width, height: 320, x, y, xlabel: "√KL from the fine-tuned model (√nats)",
      ylabel: "reward" });
    const place = ([kl, v]) => [Math.sqrt(Math.max(0, kl)), v];
    const dots = (points, attrs, hollow) => points.forEach(([kl, v], i) => {
      const [a, b] = place([kl, v]), last = i === points.length - 1;
      c.area.append(s("circle", { cx: c.px(a), cy: c.py(b), r: last ? 6 : 3,
        ...attrs, fill: hollow && !last ? "var(--paper)" : attrs.stroke }));
    });
    runs.forEach(([, points], i) => {
      if (i !== get("run")) {
        points.forEach(([kl, , t]) => c.area.append(s("circle", { r: 2, fill: "var(--soft)",
          opacity: 0.5, cx: c.px(place([kl, t])[0]), cy: c.py(t) })));
      }
    });
    const shown = runs[get("run")][1].slice(0, at + 1);
    dots(shown.map(([kl, p]) => [kl, p]), { class: "proxy", stroke: "var(--orange)" }, true);
    dots(shown.map(([kl, , t]) => [kl, t]), { class: "true", stroke: "var(--blue)" }, false);
    ui.body.replaceChildren(c.svg, h("p", { class: "note" }, "Orange rings: the reward model. Blue: "
      + "the true reward. Large: where you stop. Grey: true rewards of the other methods."));
    const [kl, proxy, truth] = shown[at];
    const best = runs[get("run")][1].reduce((b, p, i, all) => (p[2] > all[b][2] ? i : b), 0);
    Object.assign(ui.readout.dataset, { kl: kl.toFixed(4), proxy: proxy.toFixed(4),
      truth: truth.toFixed(4), best });
    ui.say(`After step ${at}: <b>${fixed(1)(kl)} nats</b> from the fine-tuned model, proxy `
      + `<b>${fixed(2)(proxy)}</b>, true <b>${fixed(2)(truth)}</b>. The true reward is highest at `
      + `step ${best}, which only we can know.`);
  }
  return redraw(model, ui.body, ["run", "step"], draw);
}

export default { render };
