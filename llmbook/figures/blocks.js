const HEAD_DIM = 64, GROUP = 4, WIDTHS = [256, 512, 768, 1024, 2048, 4096, 8192];
// name, what it is called, GPT's, today's
const PARTS = [
  ["rotary", "positions", "a learned row for each place, added to the input",
    "rotary: queries and keys are turned, nothing is added"],
  ["rms", "norms", "LayerNorm: takes out the mean, scales, adds", "RMSNorm: scales, no more"],
  ["qk_norm", "queries and keys", "as they come", "normalised, head by head"],
  ["grouped", "heads", "each with keys and values of its own", "four share keys and values"],
  ["gated", "network", "GELU, 4 times as wide, two matrices",
    "SwiGLU, 8/3 times as wide, three matrices"],
  ["unbiased", "biases", "in every map and norm", "none"],
];
const ORDER = ["rms", "unbiased", "rotary", "gated", "qk_norm", "grouped"];

function counts({ width: d, layers, context, rms, unbiased, rotary, gated, qk_norm, grouped }) {
  const bias = unbiased ? 0 : 1, heads = d / HEAD_DIM;
  const kv = HEAD_DIM * (grouped ? Math.floor(heads / GROUP) : heads);
  const norm = d * (bias && !rms ? 2 : 1);
  const attention = 2 * d * d + 2 * d * kv + bias * (2 * d + 2 * kv) + (qk_norm ? 2 * HEAD_DIM : 0);
  const inner = 8 * Math.ceil(d / 3);
  const network = gated ? 3 * d * inner + bias * (2 * inner + d) : 8 * d * d + bias * 5 * d;
  const block = attention + network + 2 * norm;
  return { parameters: block, all: layers * block + norm + (rotary ? 0 : context * d),
    cache: layers * 2 * kv * context * 2 };
}

const grouped3 = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ",");
function large(n, unit) {
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [by, letter] = steps.find(([size]) => n >= size) ?? [1, ""];
  const letters = unit ? letter : letter.replace("G", "B");
  return `${Number((n / by).toPrecision(3))} ${letters}${unit}`.trim();
}

function render({ model, el }) {
  const ui = frame(model, el, "GPT's block, part by part today's");
  const names = ["width", "layers", "context", ...ORDER, "losses"];
  const get = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const sliders = {
    width: slider({ label: "Width", name: "width", min: 0, max: WIDTHS.length - 1, step: 1,
      show: (i) => grouped3(WIDTHS[i]), input: (i) => put(model, { width: WIDTHS[i] }) }),
    layers: slider({ label: "Layers", name: "layers", min: 1, max: 96, step: 1,
      input: (layers) => put(model, { layers }) }),
    context: slider({ label: "Context (tokens)", name: "context", min: 7, max: 20, step: 1,
      show: (k) => grouped3(2 ** k), input: (k) => put(model, { context: 2 ** k }) }),
  };
  const all = (value) => Object.fromEntries(ORDER.map((name) => [name, value]));
  ui.controls.append(...Object.values(sliders).map((one) => one.node),
    h("div", { class: "walk" }, button("All as GPT", () => put(model, all(false)), { "data-name": "gpt" }),
      button("All as today", () => put(model, all(true)), { "data-name": "today" })));
  const buttons = PARTS.map(([name, title, ...said]) => {
    const what = h("span", { style: "display:block" });
    const node = h("button", { type: "button", "data-part": name,
      style: "display:block;width:100%;text-align:left;white-space:normal;padding:4px 10px",
      onclick: () => put(model, { [name]: !model.get(name) }) },
    h("span", { style: "display:block;font-weight:650" }, title), what);
    const set = (on) => {
      what.textContent = said[Number(on)];
      node.setAttribute("aria-pressed", String(on));
      Object.assign(node.style, on ? { background: "var(--blue)", color: "var(--on)",
        borderColor: "var(--blue)" } : { background: "", color: "", borderColor: "" });
    };
    return { node, set, name };
  });
  const block = h("div", { role: "group", "aria-label": "Parts of the block; each can be changed",
    style: "flex:1 1 15rem;display:grid;gap:5px;min-width:0" }, buttons.map((one) => one.node));
  const sides = h("div", { style: "flex:1 1 17rem;min-width:0" });
  ui.body.append(h("div", { style: "display:flex;flex-wrap:wrap;gap:14px 18px" }, block, sides));

  // A bar, and a mark where GPT's would end.
  function bar(name, label, value, gpt, unit, width) {
    const most = Math.max(value, gpt), x = (v) => v / most * (width - 2);
    return h("div", { style: "margin-bottom:9px" },
      h("div", { style: "display:flex;justify-content:space-between;gap:8px" },
        h("span", {}, label), h("b", { "data-count": name, "data-value": value },
          large(value, unit))),
      s("svg", { viewBox: `0 0 ${width} 16`, height: 16, "aria-hidden": "true" },
        s("rect", { x: 0, y: 2, width: x(value), height: 12, rx: 2, fill: "var(--blue)" }),
        s("line", { x1: x(gpt), x2: x(gpt), y1: 0, y2: 16, stroke: "var(--orange)",
          "stroke-width": 2.5 })));
  }

  // Recorded losses of all mixes, a row for each rate: grey the others, orange GPT, blue this one.
  function strip(losses, key, width) {
    const rates = [...new Set(Object.values(losses).flatMap((row) => Object.keys(row)))]
      .sort((a, b) => a - b);
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const every = Object.values(losses).flatMap((row) => Object.values(row).map(mean));
    const low = Math.min(...every), high = Math.max(...every), span = high - low || 1;
    const x = (v) => 12 + (v - low) / span * (width - 24);
    const tall = 34, svg = s("svg", { viewBox: `0 0 ${width} ${rates.length * tall + 22}`,
      height: rates.length * tall + 22, "aria-hidden": "true" });
    rates.forEach((rate, i) => {
      const y = 24 + i * tall;
      svg.append(s("text", { class: "soft", x: 0, y: y - 11 }, `rate ${Number(rate)}`),
        s("line", { class: "grid", x1: 6, x2: width - 6, y1: y, y2: y }));
      const dot = (at, fill, r, which) => {
        const row = losses[at]?.[rate];
        if (row) svg.append(s("circle", { cx: x(mean(row)), cy: y, r, fill, class: "dot",
          "data-which": which, "data-rate": rate, "data-value": mean(row) }));
      };
      for (const other of Object.keys(losses)) dot(other, "var(--line)", 4, "other");
      dot("000000", "var(--orange)", 5, "gpt");
      dot(key, "var(--blue)", 6.5, "this");
    });
    svg.append(s("text", { class: "soft", x: 0, y: rates.length * tall + 18 }, format(low)),
      s("text", { class: "soft", x: width, y: rates.length * tall + 18, "text-anchor": "end" },
        format(high)));
    return svg;
  }

  function draw(total) {
    const state = get();
    sliders.width.set(Math.max(0, WIDTHS.indexOf(state.width)));
    sliders.layers.set(state.layers);
    sliders.context.set(Math.round(Math.log2(state.context)));
    for (const { set, name } of buttons) set(Boolean(state[name]));
    const width = Math.max(200, total > 560 ? total - 18 - Math.max(240, (total - 18) * 0.48) : total);
    const now = counts(state), gpt = counts({ ...state, ...all(false) });
    const key = ORDER.map((name) => Number(Boolean(state[name]))).join("");
    const row = state.losses[key];
    sides.replaceChildren(
      bar("parameters", "Parameters of a block", now.parameters, gpt.parameters, "", width),
      bar("all", `All ${state.layers}, with positions`, now.all, gpt.all, "", width),
      bar("cache", "Cache of one text (16 bits)", now.cache, gpt.cache, "B", width));
    if (Object.keys(state.losses).length) {
      sides.append(h("p", { style: "margin:12px 0 2px" }, "Recorded loss, nats a byte, further left is "
        + "better"), strip(state.losses, key, width));
    }
    const changed = ORDER.filter((name) => state[name]).length;
    const told = row ? Object.entries(row).map(([rate, values]) => `<b>${fixed(3)(
      values.reduce((a, b) => a + b, 0) / values.length)}</b> at a rate of ${Number(rate)} (`
      + `${values.length} seeds, ${fixed(3)(Math.min(...values))} to `
      + `${fixed(3)(Math.max(...values))})`).join(", ") : "this mix was not trained";
    ui.say(`${changed} of 6 parts today's. All layers: <b>${large(now.all, "")}</b> parameters, cache `
      + `<b>${large(now.cache, "B")}</b>. Recorded loss of a small one: ${told}.`);
  }
  return redraw(model, ui.body, names, draw);
}

export default { render };
