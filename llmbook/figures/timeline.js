const years = (month) => Number(month.slice(0, 4)) + (Number(month.slice(5)) - 1) / 12;

// 46.7 billion; at most four digits.
function inWords(x) {
  const units = [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]];
  const [size, word] = units.find(([u]) => x >= u * 0.9995) ?? [1, ""];
  return `${Number((x / size).toPrecision(4))} ${word}`;
}

function map(width, systems, chosen, pick) {
  const view = chart({ width, height: 300, x: [2018, 2027], y: [7.4, 12.8], log: true, left: 50,
    xlabel: "year of publication", ylabel: "parameters" });
  const none = view.py(7.75), labels = [];
  view.svg.append(s("line", { class: "grid", x1: view.px(2018), x2: view.px(2027), y1: none - 14, y2: none - 14,
    "stroke-dasharray": "2 4" }), s("text", { class: "soft", x: view.px(2018) + 6, y: none + 4 }, "size not published"));
  systems.forEach(([name, month, size], i) => {
    const x = view.px(years(month)), y = size ? view.py(Math.log10(size)) : none;
    const dot = s("circle", { class: "system", cx: x.toFixed(1), cy: y.toFixed(1), r: i === chosen ? 8 : 5.5,
      fill: i === chosen ? "var(--orange)" : "var(--blue)", style: "cursor:pointer", "data-i": i });
    dot.addEventListener("click", () => pick(i));
    view.svg.append(dot);
    if (i === chosen) {
      const right = x > width * 0.6;
      labels.push(s("text", { x: x + (right ? -10 : 10), y: y - 12, "text-anchor": right ? "end" : "start",
        style: "font-weight:650;paint-order:stroke;stroke:var(--paper);stroke-width:4px" }, name));
    }
  });
  view.svg.append(...labels);
  return view.svg;
}

function card([name, month, size, active, tokens, reported, disputed, paper, address]) {
  const row = (term, text) => [h("dt", { style: "font-weight:650" }, term), h("dd", { style: "margin:0 0 .35rem" }, text)];
  const parts = size === null ? "not published"
    : inWords(size) + (active ? `, ${inWords(active)} for a token` : "");
  return h("div", { class: "card", "data-name": name, "aria-live": "polite",
    style: "background:var(--well);border-radius:8px;padding:.7rem .9rem;margin:.4rem 0 0" },
    h("p", { style: "margin:0 0 .4rem;font-weight:650" }, `${name}, ${month}`),
    h("dl", { style: "margin:0" }, ...row("Parameters", parts),
      ...row("Training tokens", tokens === null ? "not published" : inWords(tokens)),
      ...row("Reported", reported), ...row("Disputed or open", disputed),
      ...row("Source", h("a", { href: address, style: "color:var(--blue)" }, paper))));
}

function render({ model, el }) {
  const ui = frame(model, el, "Which abilities, and since when?");
  const get = (name) => model.get(name);
  const systems = get("systems"), measures = get("measures"), runs = get("runs");
  const pick = (i) => put(model, { chosen: i });
  const which = slider({ label: "Model", name: "chosen", min: 0, max: systems.length - 1, step: 1,
    show: (i) => systems[i][0], input: pick });
  const measure = choice({ label: "Measure of the small family below", name: "measure",
    options: measures.map((name, i) => [i, name]), input: (i) => put(model, { measure: i }) });
  ui.controls.append(which.node, measure.node);

  function draw(width) {
    const i = get("chosen"), m = get("measure");
    which.set(i);
    measure.set(m);
    const xs = runs.map(([compute]) => Math.log10(compute)), ys = runs.map(([, scores]) => scores[m]);
    const top = Math.max(...ys) * 1.12;
    const view = chart({ width, height: 240, x: [Math.floor(xs[0] * 2) / 2, Math.ceil(xs[xs.length - 1] * 2) / 2],
      y: [0, top], left: 52, xlabel: "training compute: log₁₀ of the FLOPs", ylabel: measures[m] });
    view.area.append(line(view, xs.map((x, k) => [x, ys[k]]), { class: "family", stroke: "var(--green)" }),
      ...xs.map((x, k) => s("circle", { class: "run", cx: view.px(x).toFixed(1), cy: view.py(ys[k]).toFixed(1),
        r: 4, fill: "var(--green)", "data-x": x, "data-y": ys[k] })));
    ui.body.replaceChildren(map(width, systems, i, pick), card(systems[i]), view.svg);
    const steps = ys.slice(1).map((y, k) => y - ys[k]), rise = Math.max(...ys) - Math.min(...ys);
    const half = ys.findIndex((y) => y >= Math.min(...ys) + rise / 2);
    ui.say(`Under “${measures[m]}”, half of the rise has come at <b>10<sup>${xs[half].toFixed(1)}</sup></b> FLOPs; `
      + `the largest step between two neighbours is <b>${(100 * Math.max(...steps) / rise).toFixed(0)}%</b> of it.`);
  }
  return redraw(model, ui.body, ["chosen", "measure"], draw);
}

export default { render };
