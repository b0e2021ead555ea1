const MOST_K = 64, MOST_QUESTIONS = 12, GRID = 401;

// The error function's complement, to 1e-9 and better: a series near 0, a continued fraction beyond.
function erfc(x) {
  const z = Math.abs(x);
  let tail;
  if (z < 2.5) {
    let term = z, sum = z;
    for (let n = 1; n < 60; n++) { term *= -z * z / n; sum += term / (2 * n + 1); }
    tail = 1 - 2 / Math.sqrt(Math.PI) * sum;
  } else {
    let f = z;
    for (let n = 60; n > 0; n--) f = z + n / 2 / f;
    tail = Math.exp(-z * z) / Math.sqrt(Math.PI) / f;
  }
  return x < 0 ? 2 - tail : tail;
}
const normal = (z) => erfc(-z / Math.SQRT2) / 2;

function majority(p, k, alike) {
  let chance = (1 - p) ** k, total = 0;
  if (p === 1) return 1;
  for (let c = 0; c <= k; c++) {
    if (alike) total += chance * (2 * c > k ? 1 : 2 * c === k ? 0.5 : 0);
    else total += chance * (c > 1 || k === 1 && c ? 1 : c / k);
    chance *= (k - c) / (c + 1) * p / (1 - p);
  }
  return total;
}

const XS = Array.from({ length: GRID }, (_, i) => -6 + 18 * i / (GRID - 1));
const WRONG = XS.map(normal);

// For one verifier: the chance that the best of k tries is right, for any p and k.
function chooser(d) {
  const right = XS.map((x) => normal(x - d));
  const density = XS.map((x) => Math.exp(-((x - d) ** 2) / 2) / Math.sqrt(2 * Math.PI));
  return (p, k) => k * p * (XS[1] - XS[0])
    * XS.reduce((sum, _, i) => sum + density[i] * (p * right[i] + (1 - p) * WRONG[i]) ** (k - 1), 0);
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "k tries at each question");
  const read = (text) => text.split(/[\s,;]+/).filter(Boolean).map(Number);
  const usable = (rates) => rates.length >= 1 && rates.length <= MOST_QUESTIONS
    && rates.every((p) => p >= 0 && p <= 1);
  const input = h("input", { type: "text", "data-name": "rates", maxlength: 120,
    style: "width:100%;box-sizing:border-box;font:inherit;padding:6px 9px;border:1px solid "
      + "var(--line);border-radius:7px;background:var(--well);color:var(--ink)",
    oninput: () => {
      const rates = read(input.value);
      input.setAttribute("aria-invalid", usable(rates) ? "false" : "true");
      if (usable(rates)) put(model, { rates });
    } });
  const k = slider({ label: "Tries k", name: "k", min: 1, max: MOST_K, step: 1,
    input: (v) => put(model, { k: v }) });
  const verifier = slider({ label: "Verifier", name: "verifier", min: -2, max: 6, step: 0.25,
    show: (v) => `${v.toFixed(2).replace("-", "−")}, ${(100 * normal(v / Math.SQRT2)).toFixed(0)}%`,
    input: (v) => put(model, { verifier: v }) });
  const alike = choice({ label: "Wrong answers", name: "alike",
    options: [[true, "all the same"], [false, "all different"]],
    input: (v) => put(model, { alike: v }) });
  ui.controls.append(h("label", { style: "flex:1 1 100%" },
    "How often is a try right? A number from 0 to 1 for each question", input),
    k.node, verifier.node, alike.node);

  function draw(width) {
    const rates = get("rates"), here = get("k"), choose = chooser(get("verifier"));
    if (document.activeElement !== input) input.value = rates.join(", ");
    k.set(here);
    verifier.set(get("verifier"));
    alike.set(get("alike"));
    const kinds = [
      ["pass", "any is right (pass@k)", "blue", undefined, (p, n) => 1 - (1 - p) ** n],
      ["best", "the verifier's choice", "green", "7 3", choose],
      ["majority", "the majority", "orange", "2 3", (p, n) => majority(p, n, get("alike"))],
    ];
    const view = chart({ width, height: 300, x: [0, 6], y: [0, 1],
      xlabel: "tries k", ylabel: "questions solved (share)", tell: (v) => 2 ** v });
    const ks = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64], now = {};
    for (const [name, , hue, dash, f] of kinds) {
      const at = (n) => mean(rates.map((p) => f(p, n)));
      now[name] = at(here);
      view.area.append(line(view, ks.map((n) => [Math.log2(n), at(n)]), { class: "curve",
        "data-kind": name, stroke: `var(--${hue})`, "stroke-dasharray": dash }),
        s("circle", { class: "now", "data-kind": name, cx: view.px(Math.log2(here)),
          cy: view.py(now[name]), r: 5.5, fill: `var(--${hue})` }));
    }
    view.area.append(s("line", { x1: view.px(Math.log2(here)), x2: view.px(Math.log2(here)),
      y1: view.py(0), y2: view.py(1), stroke: "var(--soft)", "stroke-dasharray": "2 4" }));
    const key = h("p", { class: "note" }, kinds.flatMap(([, label, hue, dash]) => [h("span",
      { style: "white-space:nowrap;margin-right:1em" }, h("span", { style: `color:var(--${hue})`
        + ";font-weight:650" }, dash === undefined ? "— " : dash === "7 3" ? "– – " : "··· "), label),
    " "]));
    ui.body.replaceChildren(view.svg, key, h("p", { class: "note" }, "Verifier: by how much its "
      + "scores of right tries lead, and how often it ranks a right try above a wrong one."));
    Object.assign(ui.readout.dataset, Object.fromEntries(
      Object.entries(now).map(([name, v]) => [name, v.toFixed(6)])));
    const show = (v) => `<b>${(100 * v).toFixed(1)}%</b>`;
    ui.say(`${here} ${here === 1 ? "try" : "tries"} at ${rates.length} `
      + `question${rates.length === 1 ? "" : "s"}: any right ${show(now.pass)}, verifier `
      + `${show(now.best)}, majority ${show(now.majority)}.`);
  }
  return redraw(model, ui.body, ["rates", "k", "verifier", "alike"], draw);
}

export default { render };
