// A count in words: 70.3 billion.
function count(x) {
  const units = [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"], [1e3, "thousand"]];
  const [size, word] = units.find(([u]) => x >= u * 0.9995) ?? [1, ""];
  return `${Number((x / size).toPrecision(3))}${word ? " " + word : ""}`;
}

const lossAt = ([, E, A, B, alpha, beta], n, d) => E + A / n ** alpha + B / d ** beta;

function optimum([, , A, B, alpha, beta], flops) {
  const total = alpha + beta, product = flops / 6;
  const g = (alpha * A / (beta * B)) ** (1 / total);
  return [g * product ** (beta / total), product ** (alpha / total) / g];
}

// The size at which training and serving together cost least, for a given loss.
function cheapest([, E, A, B, alpha, beta], loss, served) {
  const least = Math.log((A / (loss - E)) ** (1 / alpha));
  const tokens = (n) => (B / (loss - E - A / n ** alpha)) ** (1 / beta);
  let best = [0, 0, Infinity];
  for (let i = 1; i <= 6000; i++) {
    const n = Math.exp(least + 14 * (i / 6000) ** 2), d = tokens(n);
    const cost = 6 * n * d + 2 * n * served;
    if (cost < best[2]) best = [n, d, cost];
  }
  return best;
}

function render({ model, el }) {
  const ui = frame(model, el, "How large a model for this budget?");
  const get = (name) => model.get(name);
  const laws = get("laws");
  const law = choice({ label: "Constants", name: "law",
    options: laws.map(([name], i) => [i, name]), input: (i) => put(model, { law: i }) });
  const flops = slider({ label: "Training budget (FLOPs)", name: "flops", min: 18, max: 27, step: 0.1,
    show: (x) => format(10 ** x), input: (x) => put(model, { flops: x }) });
  const served = slider({ label: "Tokens it will serve", name: "served", min: 0, max: 16, step: 0.25,
    show: (x) => (x ? format(10 ** x) : "none"), input: (x) => put(model, { served: x }) });
  ui.controls.append(law.node, flops.node, served.node);

  function draw(width) {
    const one = laws[get("law")], budget = 10 ** get("flops");
    law.set(get("law"));
    flops.set(get("flops"));
    served.set(get("served"));
    const [n, d] = optimum(one, budget), loss = lossAt(one, n, d);
    const mid = Math.log10(n), at = (x) => lossAt(one, 10 ** x, budget / 6 / 10 ** x);
    const xs = Array.from({ length: 121 }, (_, i) => mid - 1.5 + i / 40);
    const top = loss + (Math.max(at(mid - 1.5), at(mid + 1.5)) - loss) * 1.05;
    const low = loss - (top - loss) * 0.15;
    const view = chart({ width, height: 290, x: [mid - 1.5, mid + 1.5], y: [low, top], left: 52,
      xlabel: "log₁₀ of the parameters", ylabel: "loss (nats a token)" });
    view.area.append(line(view, xs.map((x) => [x, at(x)]), { class: "curve", stroke: "var(--blue)" }),
      s("circle", { class: "optimum", cx: view.px(mid), cy: view.py(loss), r: 6.5,
        fill: "var(--orange)", "data-n": n, "data-d": d, "data-loss": loss }));
    const tokens = 10 ** get("served"), [sn, sd, cost] = cheapest(one, loss, get("served") ? tokens : 0);
    if (get("served")) {
      const x = Math.max(mid - 1.5, Math.min(mid + 1.5, Math.log10(sn)));
      view.area.append(s("line", { class: "served", x1: view.px(x), x2: view.px(x), y1: view.py(loss),
        y2: view.py(top), stroke: "var(--green)", "stroke-width": 2, "stroke-dasharray": "5 4",
        "data-n": sn, "data-d": sd, "data-cost": cost }),
        s("text", { x: view.px(x) + 7, y: 40, style: "fill:var(--green);font-weight:650" }, "with serving"));
    }
    ui.body.replaceChildren(view.svg);
    const plain = `Lowest loss: <b>${count(n)}</b> parameters on <b>${count(d)}</b> tokens, `
      + `<b>${format(d / n)}</b> tokens a parameter, ${loss.toFixed(3)} nats.`;
    const saved = 1 - cost / (6 * n * d + 2 * n * tokens);
    ui.say(get("served") ? `${plain} To serve ${count(tokens)} tokens at that loss, `
      + `<b>${count(sn)}</b> parameters on ${count(sd)} tokens (${format(sd / sn)} a parameter) cost `
      + `<b>${(100 * saved).toFixed(0)}%</b> less in all.` : plain);
  }
  return redraw(model, ui.body, ["law", "flops", "served"], draw);
}

export default { render };
