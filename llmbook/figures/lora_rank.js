function render({ model, el }) {
  const ui = frame(model, el, "What does the rank buy?");
  const get = (name) => model.get(name), rows = get("rows"), full = get("full"), d = get("d_model");
  const rank = slider({ label: "Rank of B A", name: "place", min: 0, max: rows.length - 1, step: 1, colour: "orange",
    show: (i) => String(rows[i].rank), input: (i) => put(model, { place: i }) });
  ui.controls.append(rank.node);
  const whole = (x) => Math.round(x).toLocaleString("en");

  function shapes(width, r) {
    const side = Math.min(150, width * 0.3), thin = Math.max(2, side * r / d), y = 22, gap = 26;
    const box = (x, w, t, colour, name) => [
      s("rect", { x, y, width: w, height: t, fill: `color-mix(in srgb, var(--${colour}) 30%, var(--paper))`,
        stroke: `var(--${colour})`, "data-part": name }),
      s("text", { x: x + w / 2, y: y - 7, "text-anchor": "middle" }, name)];
    const a = side + gap, b = a + thin + gap;
    return s("svg", { viewBox: `0 0 ${width} ${side + 34}`, height: side + 34, "aria-hidden": "true" },
      ...box(1, side, side, "blue", "W rests"), s("text", { x: side + gap / 2, y: y + side / 2, "text-anchor": "middle" }, "+"),
      ...box(a, thin, side, "orange", "B"), ...box(b, side, thin, "orange", "A"),
      s("text", { class: "soft", x: b, y: y + side - 4 }, `${d} × ${d}, rank ${r}`));
  }

  function curve(width, key, label, top) {
    const c = chart({ width, height: 190, x: [0, rows.length - 1], y: [0, top], xlabel: "rank",
      ylabel: label, tell: (i) => rows[i]?.rank ?? "" });
    c.area.append(
      s("line", { x1: c.px(0), x2: c.px(rows.length - 1), y1: c.py(full[key]), y2: c.py(full[key]),
        stroke: "var(--blue)", "stroke-dasharray": "5 4", "stroke-width": 2 }),
      line(c, rows.map((r, i) => [i, r[key]]), { stroke: "var(--orange)" }),
      s("circle", { class: "now", cx: c.px(get("place")), cy: c.py(rows[get("place")][key]), r: 5.5,
        fill: "var(--orange)", "data-value": rows[get("place")][key] }));
    return c.svg;
  }

  function draw(width) {
    const i = Math.max(0, Math.min(rows.length - 1, get("place"))), row = rows[i];
    rank.set(i);
    const half = width < 480 ? width : width / 2 - 8, most = Math.max(full.loss, ...rows.map((r) => r.loss));
    ui.body.replaceChildren(shapes(width, row.rank), h("div", { style: "display:flex;flex-wrap:wrap;gap:16px" },
      h("div", { style: `width:${half}px` }, curve(half, "loss", "loss (nats a token)", most * 1.1)),
      h("div", { style: `width:${half}px` }, curve(half, "seen", "exact answers (share)", 1.02))));
    ui.say(`Rank <b>${row.rank}</b>: ${whole(row.trained)} of ${whole(full.trained)} weights are trained `
      + `(${(100 * row.trained / full.trained).toPrecision(2)}%); loss ${row.loss.toFixed(2)}, exact `
      + `<b>${(100 * row.seen).toFixed(0)}%</b>, old text ${row.nats.toFixed(1)} nats a token. Dashed: all weights, `
      + `${full.loss.toFixed(2)}, ${(100 * full.seen).toFixed(0)}% and ${full.nats.toFixed(1)}.`);
  }
  return redraw(model, ui.body, ["place"], draw);
}

export default { render };
