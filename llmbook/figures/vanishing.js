const ACTS = {
  linear: [(a) => a, () => 1],
  tanh: [Math.tanh, (a) => 1 - Math.tanh(a) ** 2],
  sigmoid: [(a) => 1 / (1 + Math.exp(-a)), (a) => Math.exp(-a) / (1 + Math.exp(-a)) ** 2],
};
const times = (A, B) => A.map((row) => B[0].map((_, j) => row.reduce((t, v, k) => t + v * B[k][j], 0)));

// The largest singular value: one-sided Jacobi rotations make the columns orthogonal.
function norm2(M) {
  const cols = M[0].map((_, j) => M.map((row) => row[j]));
  const dot = (u, v) => u.reduce((t, x, i) => t + x * v[i], 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let i = 0; i < cols.length; i++) for (let j = i + 1; j < cols.length; j++) {
      const a = dot(cols[i], cols[i]), b = dot(cols[j], cols[j]), c = dot(cols[i], cols[j]);
      if (Math.abs(c) <= 1e-15 * Math.sqrt(a * b) || c === 0) continue;
      off = 1;
      const zeta = (b - a) / (2 * c);
      const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
      const cos = 1 / Math.hypot(1, t), sin = cos * t;
      [cols[i], cols[j]] = [cols[i].map((x, k) => cos * x - sin * cols[j][k]),
        cols[i].map((x, k) => sin * x + cos * cols[j][k])];
    }
    if (!off) break;
  }
  return Math.sqrt(Math.max(...cols.map((u) => dot(u, u))));
}

function weight(net, gain, eta) {
  return net.Q.map((row, i) => row.map((q, j) => gain * (q + eta * net.N[i][j])));
}

function matrixCurve(net, gain, activation, eta, steps) {
  const [act, slope] = ACTS[activation];
  const W = weight(net, gain, eta);
  let state = net.x[0].map(() => 0);
  const jacobians = net.x.map((x) => {
    const a = x.map((v, i) => v + W[i].reduce((t, w, j) => t + w * state[j], 0));
    state = a.map(act);
    return W.map((row, i) => row.map((w) => slope(a[i]) * w));
  });
  let product = W.map((row, i) => row.map((_, j) => Number(i === j)));
  let logScale = 0;
  const norms = [1];
  for (const J of jacobians.reverse().slice(0, steps)) {
    product = times(product, J);
    const size = Math.max(...product.flat().map(Math.abs));
    if (size === 0) { norms.push(0); continue; }
    product = product.map((row) => row.map((v) => v / size));
    logScale += Math.log(size);
    norms.push(Math.exp(logScale) * norm2(product));
  }
  return norms;
}

function render({ model, el }) {
  const ui = frame(model, el, "A gradient on its way back through time");
  const get = (name) => model.get(name);
  const setter = (name) => (value) => put(model, { [name]: value });
  const mode = choice({ label: "Each step multiplies by", name: "mode", input: setter("mode"),
    options: [["scalar", "one factor"], ["matrix", "a network’s Jacobian"]] });
  const activation = choice({ label: "Activation", name: "activation", input: setter("activation"),
    options: ["linear", "tanh", "sigmoid"].map((a) => [a, a]) });
  const range = (name, label, min, max, step, show) =>
    slider({ name, label, min, max, step, show, input: setter(name) });
  const sliders = {
    factor: range("factor", "Factor per step", 0.5, 1.5, 0.01, fixed(2)),
    gain: range("gain", "Gain", 0.5, 5, 0.05, fixed(2)),
    nonnormality: range("nonnormality", "Non-normality", 0, 2, 0.05, fixed(2)),
    steps: range("steps", "Steps back", 1, 100, 1),
  };
  const { factor, gain, nonnormality, steps } = sliders;
  ui.controls.append(mode.node, activation.node, factor.node, gain.node, nonnormality.node, steps.node);
  const note = h("p", { class: "note" });
  ui.root.append(note);

  function draw(width) {
    const matrix = get("mode") === "matrix", n = get("steps");
    mode.set(get("mode"));
    activation.set(get("activation"));
    for (const [name, one] of Object.entries(sliders)) one.set(get(name));
    activation.node.hidden = gain.node.hidden = nonnormality.node.hidden = !matrix;
    factor.node.hidden = matrix;
    const base = matrix ? get("gain") : get("factor");
    const powers = Array.from({ length: n + 1 }, (_, k) => base ** k);
    const values = matrix
      ? matrixCurve(get("network"), base, get("activation"), get("nonnormality"), n) : powers;
    const view = chart({ width, height: width < 420 ? 300 : 340, log: true, x: [0, 100],
      y: [-9, 9], xlabel: "steps back, k",
      ylabel: matrix ? "norm of the product of k Jacobians" : "gradient, as a multiple of its start" });
    const { area, px, py } = view;
    const band = (from, to, colour, text, y) => area.append(
      s("rect", { x: px(0), width: px(100) - px(0), y: py(to), height: py(from) - py(to),
        fill: `var(--${colour})`, opacity: 0.11 }),
      s("text", { x: px(100) - 8, y: py(y) + 5, "text-anchor": "end",
        style: `fill:var(--${colour});font-weight:600` }, text));
    band(3, 9.3, "orange", "exploded: above 10³", 8.2);
    band(-9.3, -3, "blue", "vanished: below 10⁻³", -8.2);
    const height = (v) => Math.max(-12, Math.min(12, v > 0 ? Math.log10(v) : -12));
    if (matrix) {
      area.append(line(view, powers.map((v, k) => [k, height(v)]), { class: "powers",
        stroke: "var(--soft)", "stroke-dasharray": "5 5", "stroke-width": 1.6 }));
    }
    area.append(line(view, values.map((v, k) => [k, height(v)]),
      { class: "curve", stroke: "var(--green)" }));
    values.forEach((v, k) => area.append(s("circle", { class: "point", cx: px(k).toFixed(2),
      cy: py(height(v)).toFixed(2), r: k === n ? 5.5 : 2.4, "data-k": k, "data-value": v,
      fill: "var(--green)" })));
    const first = values.findIndex((v) => v < 1e-3 || v > 1e3);
    if (first >= 0) {
      area.append(s("line", { class: "horizon", x1: px(first), x2: px(first), y1: py(-9.3),
        y2: py(9.3), stroke: "var(--ink)", "stroke-dasharray": "2 4", "data-k": first }),
      s("text", { x: px(first) + (first > 70 ? -7 : 7), y: py(0) - 8,
        "text-anchor": first > 70 ? "end" : "start", style: "font-weight:600" }, `k = ${first}`));
    }
    ui.body.replaceChildren(view.svg);
    const fate = first < 0 ? `It stays between 10⁻³ and 10³ for all ${n} steps.`
      : values[first] < 1e-3 ? `It is <b>below 10⁻³ from step ${first}</b>.`
        : `It is <b>above 10³ from step ${first}</b>.`;
    const after = `After ${n} step${n > 1 ? "s" : ""} `, size = `<b>${format(values[n])}</b>`;
    ui.say(matrix ? `${after} a gradient has at most ${size} times its size. ${fate}`
      : `${after} the gradient is ${size} times what it was. ${fate}`);
    ui.readout.dataset.value = values[n];
    ui.readout.dataset.horizon = first;
    note.hidden = !matrix;
    if (matrix) {
      const sigma = norm2(weight(get("network"), base, get("nonnormality")));
      note.dataset.sigma = sigma;
      note.textContent = `All eigenvalues of W have size ${base.toFixed(2)}, the gain; its largest `
        + `singular value is ${format(sigma)}. Dashed: the gain to the power k, `
        + `${format(powers[n])} at k = ${n}.`;
    }
  }
  return redraw(model, ui.body, ["mode", "activation", ...Object.keys(sliders)], draw);
}

export default { render };
