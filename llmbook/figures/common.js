// What every interactive figure shares: elements, controls, number formats, a chart with axes.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children; "on…" attributes are listeners.
function make(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat());
  return node;
}
const h = (tag, attrs, ...children) => make(document.createElement(tag), attrs, children);
const s = (tag, attrs, ...children) =>
  make(document.createElementNS(SVG, tag), attrs, children);

// Each figure loads its own copy of this script, so a counter would not do.
const unique = () => "llm-ia-" + Math.random().toString(36).slice(2);

const SUPER = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power10 = (e) => "10" + [...String(e)].map((c) => SUPER[c]).join("");

// 3 significant digits, with a power of ten when the number is far from 1.
function format(x) {
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e-3 && size < 1e4) return String(Number(x.toPrecision(3))).replace("-", "−");
  const [m, e] = x.toExponential(1).split("e");
  return `${m.replace("-", "−")}·${power10(Number(e))}`;
}
const fixed = (digits) => (x) => x.toFixed(digits).replace("-", "−");

// The figure's frame: a named group, room for controls and drawing, a readout that is read aloud
// once the reader pauses.
function frame(model, el, title) {
  const controls = h("div", { class: "controls" });
  const body = h("div", { class: "drawing" });
  const readout = h("p", { class: "readout" });
  const spoken = h("p", { class: "spoken", "aria-live": "polite", role: "status",
    style: "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)" });
  const root = h("div", { class: "llm-ia", role: "group", "aria-label": model.get("alt"),
    // JupyterLab would take the arrow keys for its own commands
    "data-lm-suppress-shortcuts": "true", style: "position:relative" },
    h("p", { class: "title" }, title), controls, body, readout, spoken);
  if (model.get("caption")) root.append(h("p", { class: "caption" }, model.get("caption")));
  el.append(root);
  answerButtons(model, root);
  let timer, before;
  const say = (markup) => {
    readout.innerHTML = markup;
    const text = readout.textContent;
    if (text === before) return;  // spoken already, or about to be
    clearTimeout(timer);
    if (before !== undefined) timer = setTimeout(() => { spoken.textContent = text; }, 500);
    before = text;
  };
  return { root, controls, body, readout, say };
}

// A link in the text such as [base 100](#figure:positions?base=100) sets the state of the figure
// with that name. (Where text and figure lie in separate documents, as in Colab, nothing happens.)
function answerButtons(model, root) {
  root.dataset.figure = model.get("name");
  const click = (event) => {
    if (!root.isConnected) { document.removeEventListener("click", click, true); return; }
    const link = event.target.closest?.('a[href*="#figure:"]');
    const [name, query] = link?.getAttribute("href").split("#figure:")[1].split("?") ?? [];
    if (name !== root.dataset.figure) return;
    event.preventDefault();
    event.stopPropagation();
    const read = (text) => { try { return JSON.parse(text); } catch { return text; } };
    put(model, Object.fromEntries([...new URLSearchParams(query)].map(([k, v]) => [k, read(v)])));
    root.dataset.set = query;
    root.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  document.addEventListener("click", click, true);
}

// Draw now, on every change of the state, and when the width changes. Returns the clean-up.
function redraw(model, box, names, draw) {
  let width = 0;
  const again = () => { if (width > 0) draw(width); };
  const observer = new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now > 0 && now !== width) { width = now; draw(width); }
  });
  observer.observe(box);
  for (const name of names) model.on(`change:${name}`, again);
  return () => {
    observer.disconnect();
    for (const name of names) model.off(`change:${name}`, again);
  };
}

function put(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}

// A labelled slider with its live value; mouse, touch and arrow keys come with the browser's own.
function slider({ label, min, max, step, show = String, input, name, colour }) {
  // not an <output>: the label would then name that instead of the slider
  const value = h("span", { class: "value", "aria-hidden": "true" });
  const range = h("input", { type: "range", min, max, step, "data-name": name,
    style: colour && `accent-color:var(--${colour})`,
    oninput: () => input(Number(range.value)) });
  const node = h("label", { class: "slider" }, h("span", {}, h("span", {}, label), value), range);
  const set = (x) => {
    if (document.activeElement !== range || Number(range.value) !== x) range.value = x;
    value.textContent = show(x);
    range.setAttribute("aria-valuetext", show(x));
  };
  return { node, range, set };
}

// One of a few: radio buttons drawn as a row.
function choice({ label, options, input, name }) {
  const group = unique();
  const inputs = options.map(([value]) =>
    h("input", { type: "radio", name: group, value, "data-name": name,
      onchange: () => input(value) }));
  const node = h("fieldset", {}, h("legend", {}, label), h("div", {},
    options.map(([, text], i) => h("label", { class: "pick" }, inputs[i], h("span", {}, text)))));
  const set = (x) => inputs.forEach((one, i) => { one.checked = options[i][0] === x; });
  return { node, inputs, set };
}

function button(label, click, attrs = {}) {
  return h("button", { type: "button", onclick: click, ...attrs }, label);
}

// At most about `most` ticks: whole decades on a log axis, else steps of 1, 2 or 5 times 10ⁿ.
function ticks(low, high, most, log = false) {
  const raw = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = log ? Math.ceil(raw) : [1, 2, 5, 10].map((m) => m * unit).find((d) => d >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}

// A chart: scales x(), y() in pixels, grid, axes with labels. With `log`, y takes log10 of values;
// `tell` is what stands at a tick of x.
function chart({ width, height, x, y, xlabel, ylabel, log = false, left = 46, right = 14,
  tell = (v) => Number(v.toPrecision(6)) }) {
  const top = 24, bottom = 44;
  const px = (v) => left + (v - x[0]) / (x[1] - x[0]) * (width - left - right);
  const py = (v) => height - bottom - (v - y[0]) / (y[1] - y[0]) * (height - top - bottom);
  const clip = unique();
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" },
    s("clipPath", { id: clip }, s("rect", { x: left - 4, y: top - 4,
      width: width - left - right + 8, height: height - top - bottom + 8 })));
  for (const v of ticks(y[0], y[1], 6, log)) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: py(v), y2: py(v) }),
      s("text", { class: "soft", x: left - 7, y: py(v) + 4.5, "text-anchor": "end" },
        log ? power10(Math.round(v)) : String(Number(v.toPrecision(6))).replace("-", "−")));
  }
  for (const v of ticks(x[0], x[1], width < 420 ? 5 : 10)) {
    svg.append(s("line", { class: "axis", x1: px(v), x2: px(v), y1: height - bottom,
      y2: height - bottom + 5 }),
      s("text", { class: "soft", x: px(v), y: height - bottom + 19, "text-anchor": "middle" },
        String(tell(v))));
  }
  svg.append(
    s("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    s("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xlabel),
    s("text", { x: 2, y: 13 }, ylabel));
  const area = s("g", { "clip-path": `url(#${clip})` });
  svg.append(area);
  return { svg, area, px, py };
}

// A line through points [[x, y], …] in data coordinates.
function line({ px, py }, points, attrs) {
  const d = points.map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(2)} ${py(b).toFixed(2)}`);
  return s("path", { d: d.join(""), fill: "none", "stroke-width": 2.2, "stroke-linejoin": "round",
    ...attrs });
}

