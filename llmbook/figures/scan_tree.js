function render({ model, el }) {
  const ui = frame(model, el, "The same recurrence, by a loop and by a tree");
  const get = (name) => model.get(name);
  const last = () => Math.ceil(Math.log2(get("n")));
  const size = slider({ label: "Steps to take", name: "n", min: 2, max: 16, step: 1,
    input: (n) => put(model, { n, round: Math.min(get("round"), Math.ceil(Math.log2(n))) }) });
  const which = slider({ label: "Round", name: "round", min: 0, max: 4, step: 1,
    input: (r) => put(model, { round: Math.min(r, last()) }) });
  const next = button("Next round", () => put(model, { round: (get("round") + 1) % (last() + 1) }));
  ui.controls.append(size.node, which.node, next);

  function draw(width) {
    const n = get("n"), rounds = last(), r = Math.min(get("round"), rounds);
    size.set(n); which.range.max = rounds; which.set(r);
    const row = 44, left = 84, cell = (width - left - 14) / n, x = (t) => left + (t + 0.5) * cell;
    const height = 30 + row * (rounds + 1) + 84;
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
    const y = (k) => 26 + k * row, dot = Math.min(13, cell * 0.34);
    for (let k = 0; k <= r; k++) {
      svg.append(s("text", { class: "soft", x: 2, y: y(k) + 4 }, k === 0 ? "steps" : `round ${k}`));
      for (let t = 0; t < n; t++) {
        const span = Math.min(2 ** k, t + 1), done = span === t + 1;
        if (k > 0 && t >= 2 ** (k - 1)) svg.append(
          s("line", { class: "join", x1: x(t), y1: y(k - 1) + dot, x2: x(t), y2: y(k) - dot, stroke: "var(--blue)" }),
          s("line", { class: "join", x1: x(t - 2 ** (k - 1)), y1: y(k - 1) + dot, x2: x(t) - 2, y2: y(k) - dot,
            stroke: "var(--blue)" }));
        svg.append(s("circle", { class: "node", cx: x(t), cy: y(k), r: dot, "data-span": span,
          fill: "var(--well)", stroke: done ? "var(--green)" : "var(--blue)", "stroke-width": done ? 3.5 : 1 }),
        s("text", { x: x(t), y: y(k) + 4, "text-anchor": "middle", style: "font-size:12px;"
          + (done ? "font-weight:700" : "") }, span));
      }
    }
    const base = y(rounds) + 56;
    svg.append(s("text", { class: "soft", x: 2, y: base + 4 }, "the loop"));
    for (let t = 0; t < n; t++) {
      const done = t <= r;
      if (t > 0) svg.append(s("line", { x1: x(t - 1) + dot, x2: x(t) - dot, y1: base, y2: base,
        stroke: done ? "var(--orange)" : "var(--grey, #8888)" }));
      svg.append(s("circle", { class: "looped", cx: x(t), cy: base, r: dot,
        fill: done ? "var(--orange)" : "var(--well)", stroke: "var(--orange)", "data-done": done }));
    }
    ui.body.replaceChildren(svg);
    let joins = 0;
    for (let k = 0; k < r; k++) joins += Math.max(n - 2 ** k, 0);
    const known = Math.min(2 ** r, n);
    ui.say(`After <b>${r}</b> of ${rounds} rounds the tree knows <b>${known}</b> of ${n} states, with <b>${joins}</b> `
      + `joins; the loop knows ${Math.min(r + 1, n)}, with ${Math.min(r, n - 1)}, and needs ${n - 1} in all.`);
  }
  return redraw(model, ui.body, ["n", "round"], draw);
}

export default { render };
