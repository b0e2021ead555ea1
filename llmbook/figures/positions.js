function omegas(code, d, base) {
  return Array.from({ length: d / 2 }, (_, i) => (code === "equal" ? 2 * Math.PI : base ** (-2 * i / d)));
}
const NAMES = ["code", "d", "length", "base", "position", "offset", "pair"];
const row = (w, t) => w.flatMap((one) => [Math.sin(t * one), Math.cos(t * one)]);
const dot = (a, b) => a.reduce((t, x, i) => t + x * b[i], 0);

function crossings(column) {
  const signs = column.filter((x) => Math.abs(x) > 1e-9).map(Math.sign);
  return signs.slice(1).filter((sign, i) => sign !== signs[i]).length;
}

// The three properties, computed from the table that is drawn.
function ticksOf(table, w) {
  let distance = Infinity, residual = 0;
  table.forEach((a, t) => {
    for (let u = t + 1; u < table.length; u++) {
      const b = table[u];
      distance = Math.min(distance, Math.hypot(...a.map((x, j) => x - b[j])));
      w.forEach((one, i) => {
        const cos = Math.cos((u - t) * one), sin = Math.sin((u - t) * one);
        residual = Math.max(residual, Math.abs(a[2 * i] * cos + a[2 * i + 1] * sin - b[2 * i]),
          Math.abs(a[2 * i + 1] * cos - a[2 * i] * sin - b[2 * i + 1]));
      });
    }
  });
  const d = table[0].length;
  return { distance, residual, first: crossings(table.map((r) => r[0])),
    last: crossings(table.map((r) => r[d - 2])) };
}

function heatmap(width, table, state, pick) {
  const { d, length, position, offset, pair } = state;
  const left = 34, top = 36, right = 64, cw = (width - left - right) / d;
  const ch = Math.max(4, Math.min(7, 300 / length)), low = top + ch * length;
  const svg = s("svg", { viewBox: `0 0 ${width} ${low + 34}`, height: low + 34, class: "map",
    "aria-hidden": "true", style: "cursor:pointer" });
  table.forEach((r, t) => r.forEach((v, j) => svg.append(s("rect", { class: "cell", x: (left + j * cw).toFixed(2),
    y: (top + t * ch).toFixed(2), width: cw.toFixed(2), height: ch, "shape-rendering": "crispEdges",
    fill: v < 0 ? "var(--orange)" : "var(--blue)", opacity: Math.abs(v).toFixed(3), "data-value": v }))));
  const outline = (t, colour, label, name) => svg.append(
    s("rect", { class: name, x: left - 1, y: top + t * ch - 1, width: cw * d + 2, height: ch + 2,
      fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, "data-t": t }),
    s("text", { x: left + cw * d + 6, y: top + (t + 0.5) * ch + 4.5,
      style: `fill:var(--${colour});font-weight:650` }, label));
  const apart = Math.abs(offset) * ch >= 13;  // else the two labels would overlap
  outline(position + offset, "green", apart ? "t + k" : "", "shifted");
  outline(position, "purple", "t", "chosen");
  svg.append(
    s("rect", { class: "pair", x: left + 2 * pair * cw, y: top, width: 2 * cw, height: ch * length, fill: "none",
      stroke: "var(--ink)", "stroke-width": 1.2, "stroke-dasharray": "3 3" }),
    s("text", { x: 2, y: 13 }, "position t (down)"),
    s("text", { x: left + (2 * pair + 1) * cw, y: top - 6, "text-anchor": "middle", class: "soft" }, `pair ${pair}`),
    s("text", { x: left + cw * d / 2, y: low + 30, "text-anchor": "middle" }, `dimension, 0 to ${d - 1}`));
  for (const t of ticks(0, length - 1, 6)) {
    svg.append(s("text", { class: "soft", x: left - 7, y: top + (t + 0.5) * ch + 4.5, "text-anchor": "end" }, t));
  }
  svg.addEventListener("click", (event) => {
    const y = (event.clientY - svg.getBoundingClientRect().top) * (low + 34) / svg.getBoundingClientRect().height;
    pick(Math.max(0, Math.min(length - 1, Math.floor((y - top) / ch))));
  });
  return svg;
}

function circle(w, position, offset, pair) {
  const R = 84, mid = 130, one = w[pair];
  const at = (t, r = R) => [mid + r * Math.cos(t * one), mid - r * Math.sin(t * one)];
  const svg = s("svg", { viewBox: "0 0 260 260", "aria-hidden": "true", style: "max-width:300px;margin:0 auto" },
    s("circle", { cx: mid, cy: mid, r: R, fill: "none", stroke: "var(--line)", "stroke-width": 1.5 }),
    s("line", { class: "grid", x1: mid - R, x2: mid + R, y1: mid, y2: mid }),
    s("line", { class: "grid", x1: mid, x2: mid, y1: mid - R, y2: mid + R }),
    // the axes' names stand inside, where no label of a position comes
    s("text", { class: "soft", x: mid + R - 4, y: mid + 15, "text-anchor": "end" }, "cos"),
    s("text", { class: "soft", x: mid + 5, y: mid - R + 16 }, "sin"));
  const turn = offset * one, steps = Math.max(2, Math.min(600, Math.ceil(Math.abs(turn) * 12)));
  const arc = Array.from({ length: steps + 1 }, (_, i) => at(position + offset * i / steps,
    36 + 6 * Math.min(4, Math.abs(turn) / 6.3) * i / steps).map((v) => v.toFixed(2)).join(" "));
  svg.append(s("path", { class: "turn", d: `M${arc.join("L")}`, fill: "none", stroke: "var(--green)",
    "stroke-width": 2, "data-angle": turn }));
  const apart = Math.hypot(...[0, 1].map((i) => at(position, R + 15)[i] - at(position + offset, R + 26)[i]));
  const same = apart < 34;  // one label for both, where two would lie on each other
  for (const [t, colour, label, name, r] of [[position, "purple", same ? "" : "t", "now", R + 15],
    [position + offset, "green", same ? "t, t + k" : "t + k", "then", R + 28]]) {
    const [x, y] = at(t), [tx, ty] = at(t, r);
    svg.append(s("line", { x1: mid, y1: mid, x2: x, y2: y, stroke: `var(--${colour})`, "stroke-width": 2.4 }),
      s("circle", { class: name, cx: x, cy: y, r: 6, fill: `var(--${colour})`,
        "data-sin": Math.sin(t * one), "data-cos": Math.cos(t * one) }),
      s("text", { x: tx, y: ty + 5, "text-anchor": "middle", style: `fill:var(--${colour});font-weight:650` }, label));
  }
  return svg;
}

// The position, the offset and the pair, moved to where the table has them. Values change one at a
// time, so a drawing may come between the new position and the offset that fits it.
function inside({ d, length, position, offset, pair }) {
  const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
  const t = clamp(position, 0, length - 1);
  return { position: t, offset: clamp(offset, -t, length - 1 - t), pair: clamp(pair, 0, d / 2 - 1) };
}

function render({ model, el }) {
  const ui = frame(model, el, "Positions as angles");
  const get = (name) => model.get(name);
  const state = () => Object.fromEntries(NAMES.map((name) => [name, get(name)]));
  const fits = (changes) => put(model, { ...changes, ...inside({ ...state(), ...changes }) });
  const range = (name, label, min, max, step, show, input, colour) => slider({ name, label, min, max, step, show,
    colour, input: input ?? ((value) => fits({ [name]: value })) });
  const code = choice({ label: "Frequencies", name: "code", input: (value) => fits({ code: value }),
    options: [["geometric", "geometric"], ["equal", "all 2π (broken)"]] });
  const sliders = {
    position: range("position", "Position t", 0, get("length") - 1, 1, String, null, "purple"),
    offset: range("offset", "Offset k", 1 - get("length"), get("length") - 1, 1, fixed(0), null, "green"),
    pair: range("pair", "Pair i", 0, get("d") / 2 - 1, 1),
    base: range("base", "Base", 1, 5, 0.25, (x) => Math.round(10 ** x).toLocaleString("en"),
      (value) => fits({ base: 10 ** value })),
    d: range("d", "Dimensions d", 4, 32, 2),
  };
  ui.controls.append(code.node, ...Object.values(sliders).map((one) => one.node));
  const note = h("p", { class: "note" });
  const list = h("ul", { class: "ticks", style: "list-style:none;padding:0;margin:.6rem 0 0" });
  ui.root.append(note, list);
  const say = (ok, name, text) => h("li", { "data-name": name, "data-ok": Number(ok) },
    h("b", { style: `color:var(--${ok ? "green" : "orange"})` }, ok ? "✓ " : "✗ "), text);

  function draw(width) {
    const now = { ...state(), ...inside(state()) };
    const { d, length, position, offset, pair } = now;
    const w = omegas(now.code, d, now.base), table = Array.from({ length }, (_, t) => row(w, t));
    code.set(now.code);
    sliders.pair.range.max = d / 2 - 1;
    for (const name of ["position", "offset", "pair", "d"]) sliders[name].set(now[name]);
    sliders.base.set(Math.log10(now.base));
    sliders.base.node.hidden = now.code === "equal";
    const wide = width >= 600, map = wide ? width - 280 : width;
    const view = chart({ width, height: 250, x: [-position, length - 1 - position], y: [-d / 2, d / 2],
      xlabel: "offset k (positions)", ylabel: "PE(t) · PE(t + k)" });
    const values = table.map((r) => dot(r, table[position]));
    view.area.append(line(view, values.map((v, t) => [t - position, v]),
      { class: "similarity", stroke: "var(--blue)" }));
    values.forEach((v, t) => view.area.append(s("circle", { class: "point", cx: view.px(t - position).toFixed(2),
      cy: view.py(v).toFixed(2), r: t - position === offset ? 6 : 2.2, "data-k": t - position, "data-value": v,
      fill: t - position === offset ? "var(--green)" : "var(--blue)" })));
    const grid = "display:grid;grid-template-columns:1fr 270px;gap:10px;align-items:center";
    const both = h("div", { style: wide ? grid : "" },
      heatmap(map, table, now, (t) => fits({ position: t })), circle(w, position, offset, pair));
    ui.body.replaceChildren(both, view.svg);
    const degrees = (offset * w[pair] * 180 / Math.PI);
    ui.say(`From position <b>${position}</b> to <b>${position + offset}</b>, pair ${pair} turns by `
      + `k·ω = <b>${format(degrees)}°</b>. The two encodings have the dot product `
      + `<b>${fixed(2)(values[position + offset])}</b> of at most ${d / 2}.`);
    Object.assign(ui.readout.dataset, { angle: offset * w[pair], similarity: values[position + offset] });
    const wave = 2 * Math.PI / w[pair];
    note.textContent = `Pair ${pair} has a wavelength of ${format(wave)} positions; the pairs run from `
      + `${format(2 * Math.PI / w[0])} to ${format(2 * Math.PI / w[w.length - 1])}. `
      + "Blue is positive, orange negative.";
    note.dataset.wavelength = wave;
    const found = ticksOf(table, w);
    Object.assign(list.dataset, found);
    list.replaceChildren(
      say(found.distance > 1e-6, "unique",
        `every position is unique: the nearest two are ${format(found.distance)} apart`),
      say(found.residual < 1e-9, "linear",
        `a shift is a rotation: largest error ${format(found.residual)}`),
      say(found.first > found.last, "scales", "fast to slow: sign changes down the first sine: "
        + `${found.first}, down the last: ${found.last}`));
  }
  return redraw(model, ui.body, ["code", "base", ...Object.keys(sliders).filter((n) => n !== "base")], draw);
}

export default { render };
