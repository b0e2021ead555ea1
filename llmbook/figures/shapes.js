const SIDE = 16, PART = 4;

// The cells that a shape covers, row by row: as llmbook.data.shapes.draw, in float32 as there.
function covered(shape, x, y, r) {
  const f = Math.fround;
  return Array.from({ length: SIDE * SIDE }, (_, at) => {
    const dx = f(at % SIDE + 0.5 - f(x)), dy = f(Math.floor(at / SIDE) + 0.5 - f(y)), q = f(r);
    const ax = Math.abs(dx), ay = Math.abs(dy), slope = f(f(dy + q) / 2);
    if (shape === "circle") return f(f(dx * dx) + f(dy * dy)) <= f(q * q);
    if (shape === "square") return Math.max(ax, ay) <= f(f(0.85) * q);
    if (shape === "triangle") return ax <= slope && slope <= q;
    return Math.min(ax, ay) <= f(f(0.3) * q) && Math.max(ax, ay) <= q;
  });
}

// The picture as patches, a row each: 16 × 48, red, green and blue from 0 to 1.
function asPatches(lit, rgb, blind) {
  const out = matrix(16, PART * PART * 3);
  lit.forEach((on, at) => {
    const i = Math.floor(at / SIDE), j = at % SIDE, patch = Math.floor(i / PART) * 4 + Math.floor(j / PART);
    if (!on || blind.includes(patch)) return;
    rgb.forEach((v, c) => { out.data[patch * 48 + ((i % PART) * PART + j % PART) * 3 + c] = v / 255; });
  });
  return out;
}

const part = (w, from, rows) => matrix(rows, w.cols, w.data.subarray(from * w.cols, (from + rows) * w.cols));
const piece = (b, from, n) => matrix(1, n, b.data.subarray(from, from + n));

// What the model says: for each of four words { law over all words, id, weights: over the tokens before }.
function caption(w, patches) {
  const seen = linear(patches, w["patch.weight"], w["patch.bias"]), d = seen.cols, said = [0], found = [];
  const bias = (_, i, j) => (j < 16 || j <= i ? 0 : -Infinity);
  while (said.length < 5) {
    const words = embedding(said, w["word.weight"]), n = 16 + said.length;
    let x = matrix(n, d, Float64Array.from([...seen.data, ...words.data]));
    x = each(x, (v, i) => v + w.positions.data[i]);
    let weights = null;
    for (let layer = 0; `blocks.${layer}.up.weight` in w; layer++) {
      const of = (name) => w[`blocks.${layer}.${name}`];
      const a = layerNorm(x, of("norm1.weight"), of("norm1.bias"));
      const kv = (from) => linear(a, part(of("attend.kv.weight"), from, d), piece(of("attend.kv.bias"), from, d));
      const heads = 4;
      const looked = attention(linear(a, of("attend.q.weight"), of("attend.q.bias")), kv(0), kv(d), { heads, bias });
      x = plus(x, linear(looked.out, of("attend.out.weight"), of("attend.out.bias")));
      x = plus(x, feedForward(layerNorm(x, of("norm2.weight"), of("norm2.bias")), { up: of("up.weight"),
        upBias: of("up.bias"), down: of("down.weight"), downBias: of("down.bias") }));
      weights = looked.weights.map((rows) => rows[n - 1]);
    }
    const last = layerNorm(matrix(1, d, row(x, n - 1)), w["norm.weight"], w["norm.bias"]);
    const law = softmax([...linear(last, w["head.weight"], w["head.bias"]).data]);
    const id = law.indexOf(Math.max(...law));
    found.push({ law, id, weights: weights[0].map((_, j) => weights.reduce((sum, h) => sum + h[j], 0) / weights.length) });
    said.push(id);
  }
  return found;
}

function render({ model, el }) {
  const ui = frame(model, el, "Draw something. What does the model call it?");
  const get = (name) => model.get(name), palette = get("palette"), words = get("words"), kinds = get("kinds");
  const shape = choice({ label: "Shape", name: "shape", options: kinds[1].map((k) => [k, k]),
    input: (v) => put(model, { shape: v, painted: [] }) });
  const colour = choice({ label: "Colour", name: "colour", options: kinds[0].map((k) => [k, k]), input: (v) => put(model, { colour: v }) });
  const cells = (v) => v.toFixed(1);
  const sliders = [["x", "Centre, from the left", 3.5, 12.5], ["y", "Centre, from the top", 3.5, 12.5], ["r", "Radius", 3, 4]]
    .map(([name, label, min, max]) => [name, slider({ label, name, min, max, step: 0.1, show: cells,
      input: (v) => put(model, { [name]: v, painted: [] }) })]);
  const wipe = button("Undo painting", () => put(model, { painted: [], blind: [] }));
  ui.controls.append(shape.node, colour.node, ...sliders.map(([, one]) => one.node), wipe);
  let w = null, fault = "";

  // All cells of the canvas, with what the reader painted.
  function cellsNow() {
    const lit = covered(get("shape"), get("x"), get("y"), get("r"));
    for (const [i, j, on] of get("painted")) lit[i * SIDE + j] = Boolean(on);
    return lit;
  }

  let stroke = null;  // whether this stroke lights cells or blanks them
  function paint(svg, event) {
    const box = svg.getBoundingClientRect();
    const at = (v, from, size) => Math.floor((v - from) / size * SIDE);
    const i = at(event.clientY, box.top, box.height), j = at(event.clientX, box.left, box.width);
    if (i < 0 || j < 0 || i >= SIDE || j >= SIDE) return;
    const on = cellsNow()[i * SIDE + j];
    stroke ??= on ? 0 : 1;
    if (Number(on) === stroke) return;
    put(model, { painted: [...get("painted").filter(([a, b]) => a !== i || b !== j), [i, j, stroke]] });
  }

  const canvas = s("svg", { viewBox: "0 0 160 160", "aria-hidden": "true",
    style: "width:100%;max-width:15rem;cursor:crosshair;touch-action:none;background:#14171c;border-radius:6px" });
  canvas.addEventListener("pointerdown", (event) => {
    stroke = null;
    try { canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone */ }
    paint(canvas, event);
  });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) paint(canvas, event); });
  const looks = s("svg", { viewBox: "0 0 160 160", "aria-hidden": "true",
    style: "width:100%;max-width:15rem;cursor:pointer;background:#14171c;border-radius:6px" });
  looks.addEventListener("click", (event) => {
    const box = looks.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top) / box.height * 4), j = Math.floor((event.clientX - box.left) / box.width * 4);
    const patch = 4 * Math.min(3, Math.max(0, i)) + Math.min(3, Math.max(0, j)), now = get("blind");
    put(model, { blind: now.includes(patch) ? now.filter((p) => p !== patch) : [...now, patch] });
  });
  const said = h("div", { class: "tokens" }), law = h("div");
  const label = (text) => h("p", { class: "note", style: "margin:.2rem 0" }, text);
  ui.body.append(h("div", { style: "display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,15rem));gap:.6rem 1.2rem" },
    h("div", {}, canvas, label("The picture: click or drag to paint.")),
    h("div", {}, looks, label("Its patches: the brighter, the more attention. Click to blank one.")),
    h("div", {}, said, law)));

  function draw() {
    for (const [name, one] of sliders) one.set(get(name));
    shape.set(get("shape"));
    colour.set(get("colour"));
    const rgb = palette[get("colour")], lit = cellsNow(), fill = `rgb(${rgb})`, blind = get("blind"), t = get("word");
    canvas.replaceChildren(...lit.flatMap((on, at) => (on ? [s("rect", { class: "cell", x: (at % SIDE) * 10,
      y: Math.floor(at / SIDE) * 10, width: 10.2, height: 10.2, fill, "data-at": at })] : [])),
    ...[1, 2, 3].flatMap((k) => [s("path", { d: `M${40 * k} 0V160M0 ${40 * k}H160`, stroke: "#fff", "stroke-opacity": 0.35 })]));
    wipe.disabled = !get("painted").length && !blind.length;
    if (!w) { ui.say(fault || `The model is on its way. Of the first picture it said: <b>${get("example").join(" ")}</b>.`); return; }
    const found = caption(w, asPatches(lit, rgb, blind)), { weights } = found[t], most = Math.max(...weights.slice(0, 16));
    looks.replaceChildren(...lit.flatMap((on, at) => (on ? [s("rect", { x: (at % SIDE) * 10, y: Math.floor(at / SIDE) * 10,
      width: 10.2, height: 10.2, fill, "fill-opacity": 0.25 })] : [])),
    ...weights.slice(0, 16).map((p, patch) => s("rect", { class: "patch", x: (patch % 4) * 40 + 1, y: Math.floor(patch / 4) * 40 + 1,
      width: 38, height: 38, fill: blind.includes(patch) ? "#5d6570" : "#ffffff",
      "fill-opacity": blind.includes(patch) ? 1 : (0.75 * p / most).toFixed(3), stroke: "#8a929c", "data-p": p })));
    const focus = said.contains(document.activeElement);
    said.replaceChildren(...found.map(({ id, law: p }, i) => button(`${words[id]}`, () => put(model, { word: i }), { class: "token",
      "aria-current": i === t ? "true" : "false", "data-id": id, "data-p": p[id], "data-word": i })));
    if (focus) said.children[t].focus();
    const top = kinds[t].map((word) => [word, found[t].law[words.indexOf(word)]]).sort((a, b) => b[1] - a[1]).slice(0, 3);
    law.replaceChildren(...top.map(([word, p]) => h("div", { style: "margin:.3rem 0" },
      h("div", { style: "display:flex;justify-content:space-between" }, h("span", {}, word), h("span", {}, `${(100 * p).toFixed(1)} %`)),
      h("div", { style: `height:7px;border-radius:4px;background:var(--blue);width:${Math.max(0.5, 100 * p).toFixed(1)}%` }))));
    const rest = weights.slice(16).reduce((a, b) => a + b, 0), at = weights.indexOf(most);
    ui.readout.dataset.said = found.map(({ id }) => words[id]).join(" ");
    ui.say(`It says <b>${ui.readout.dataset.said}</b>. For “${words[found[t].id]}” (${(100 * found[t].law[found[t].id]).toFixed(0)} % sure) patch ${
      at + 1} gets most attention, <b>${most.toFixed(2)}</b>; ${rest.toFixed(2)} goes to the words before.`);
  }
  weightsOf(model).then((found) => { w = found; }, (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(); });
  return redraw(model, ui.body, ["shape", "colour", "x", "y", "r", "painted", "word", "blind"], draw);
}

export default { render };
