const RULES = {
  "capitals": (t, i) => /\p{Lu}/u.test(t[i]),
  "digits": (t, i) => /\d/.test(t[i]),
  "vowels": (t, i) => "aeiou".includes(t[i].toLowerCase()),
  "first letters": (t, i) => /\p{L}/u.test(t[i]) && (i === 0 || t[i - 1] === " "),
};

const NAMES = ["text", "rule", "large", "small", "rate", "mute", "skip"];

// Of each character: Δ, exp(ΔA), B, C, what it reads (y = C h, every input 1), and what the state
// holds of it after the last one.
function terms({ text, rule, large, small, rate, mute, skip }) {
  const through = [...text].map((_, i) => RULES[rule](text, i));
  const steps = through.map((yes) => yes ? large : small);
  const kept = steps.map((step) => Math.exp(-rate * step));
  const [fed, read] = [mute, skip].map((off) => through.map((yes) => off && !yes ? 0 : 1));
  let state = 0;
  const y = steps.map((step, i) => read[i] * (state = kept[i] * state + step * fed[i]));
  const held = new Array(steps.length);
  for (let j = steps.length - 1, later = 1; j >= 0; later *= kept[j--]) held[j] = later * steps[j] * fed[j];
  return { through, steps, kept, fed, read, y, held };
}

function render({ model, el }) {
  const ui = frame(model, el, "What does a state keep of your text?");
  const get = (name) => model.get(name);
  const field = h("input", { type: "text", maxlength: 32, "aria-label": "Your text", "data-name": "text",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;background:var(--well);"
      + "border:1px solid var(--line, #8888);border-radius:6px",
    oninput: () => { if (field.value) put(model, { text: field.value }); } });
  const rule = choice({ label: "What counts", name: "rule", options: Object.keys(RULES).map((r) => [r, r]),
    input: (r) => put(model, { rule: r }) });
  const large = slider({ label: "Δ of what counts", name: "large", min: 0, max: 4, step: 0.1, colour: "orange",
    show: fixed(1), input: (x) => put(model, { large: x }) });
  const small = slider({ label: "Δ of the rest", name: "small", min: 0, max: 1, step: 0.02, colour: "blue",
    show: fixed(2), input: (x) => put(model, { small: x }) });
  const rate = slider({ label: "−A: how fast it forgets", name: "rate", min: 0.05, max: 2, step: 0.05,
    show: fixed(2), input: (x) => put(model, { rate: x }) });
  const mute = choice({ label: "B of the rest", name: "mute", options: [[false, "1"], [true, "0"]],
    input: (x) => put(model, { mute: x }) });
  const skip = choice({ label: "C of the rest", name: "skip", options: [[false, "1"], [true, "0"]],
    input: (x) => put(model, { skip: x }) });
  ui.controls.append(h("div", { style: "flex-basis:100%" }, field), rule.node, large.node, small.node, rate.node,
    mute.node, skip.node);

  function draw(width) {
    const text = get("text"), n = text.length;
    if (document.activeElement !== field) field.value = text;
    const now = Object.fromEntries(NAMES.map((name) => [name, get(name)]));
    rule.set(now.rule); large.set(now.large); small.set(now.small); rate.set(now.rate); mute.set(now.mute);
    skip.set(now.skip);
    const { through, steps, kept, fed, read, y, held } = terms(now);
    const left = 58, cell = (width - left - 4) / n, up = 52, mid = 86, down = 92;
    const rows = [["exp(ΔA)", kept, 1], ["B", fed, 1], ["C", read, 1], ["y", y, Math.max(...y, 1e-9)]];
    const bars = mid + 21 * rows.length + 4;
    const svg = s("svg", { viewBox: `0 0 ${width} ${bars + down + 10}`, height: bars + down + 10, "aria-hidden": "true" });
    const label = (at, text) => svg.append(s("text", { class: "soft", x: 2, y: at }, text));
    label(up + 10, "Δ");
    rows.forEach(([name], k) => label(mid + 21 * k + 14, name));
    label(bars + 14, "held");
    const top = Math.max(...steps, 1e-9), most = Math.max(...held, 1e-9);
    [...text].forEach((c, i) => {
      const x = left + i * cell, wide = Math.max(cell - 2, 1), colour = through[i] ? "var(--orange)" : "var(--blue)";
      const a = steps[i] / top * up, b = held[i] / most * down;
      svg.append(
        s("rect", { class: "step", x: x + 1, y: up + 10 - a, width: wide, height: a, fill: colour }),
        s("rect", { class: "held", x: x + 1, y: bars, width: wide, height: b, fill: colour, "data-held": held[i] }),
        s("text", { x: x + cell / 2, y: mid - 8, "text-anchor": "middle",
          style: `font-family:monospace;font-size:${Math.max(12, Math.min(16, cell * 1.4)).toFixed(1)}px;`
            + (through[i] ? "font-weight:700" : "") }, c));
      rows.forEach(([name, values, full], k) => svg.append(
        s("rect", { x: x + 1, y: mid + 21 * k, width: wide, height: 17, fill: colour, stroke: "var(--line)",
          "fill-opacity": values[i] / full, "data-row": name, "data-value": values[i] })));
    });
    ui.body.replaceChildren(svg);
    const all = held.reduce((a, b) => a + b, 0) || 1;
    const ours = held.filter((_, i) => through[i]).reduce((a, b) => a + b, 0);
    const first = through.indexOf(true);
    const total = steps.slice(first + 1).reduce((a, b) => a + b, 0);
    const rest = first < 0 ? "" : ` Of the first, “${text[first].replace(/[<&]/g, "·")}”, `
      + `exp(ΔA) after ${n - first - 1} characters leaves <b>${(100 * Math.exp(-get("rate") * total)).toPrecision(2)}%</b>.`;
    ui.say(`<b>${(100 * ours / all).toFixed(0)}%</b> of the state comes from what counts.${rest}`);
  }
  return redraw(model, ui.body, NAMES, draw);
}

export default { render };
