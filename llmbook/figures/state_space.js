const RULES = {
  "capitals": (t, i) => /\p{Lu}/u.test(t[i]),
  "digits": (t, i) => /\d/.test(t[i]),
  "vowels": (t, i) => "aeiou".includes(t[i].toLowerCase()),
  "first letters": (t, i) => /\p{L}/u.test(t[i]) && (i === 0 || t[i - 1] === " "),
};

// What the state holds of each character after the last: exp(-rate * later steps) * step * B.
function heldBy(text, rule, large, small, rate, mute) {
  const through = [...text].map((_, i) => RULES[rule](text, i));
  const steps = through.map((yes) => yes ? large : small);
  const held = new Array(steps.length);
  let later = 0;
  for (let j = steps.length - 1; j >= 0; j--) {
    held[j] = Math.exp(-rate * later) * steps[j] * (mute && !through[j] ? 0 : 1);
    later += steps[j];
  }
  return { through, steps, held };
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
  ui.controls.append(h("div", { style: "flex-basis:100%" }, field), rule.node, large.node, small.node, rate.node,
    mute.node);

  function draw(width) {
    const text = get("text"), n = text.length;
    if (document.activeElement !== field) field.value = text;
    rule.set(get("rule")); large.set(get("large")); small.set(get("small")); rate.set(get("rate")); mute.set(get("mute"));
    const { through, steps, held } = heldBy(text, get("rule"), get("large"), get("small"), get("rate"), get("mute"));
    const cell = (width - 8) / n, up = 70, mid = 104, down = 110;
    const svg = s("svg", { viewBox: `0 0 ${width} ${mid + down + 34}`, height: mid + down + 34, "aria-hidden": "true" });
    svg.append(s("text", { class: "soft", x: 2, y: 13 }, "step Δ of each character"),
      s("text", { class: "soft", x: 2, y: mid + down + 28 }, "what the state holds at the end"));
    const top = Math.max(...steps, 1e-9), most = Math.max(...held, 1e-9);
    [...text].forEach((c, i) => {
      const x = 4 + i * cell, colour = through[i] ? "var(--orange)" : "var(--blue)";
      const a = steps[i] / top * (up - 20), b = held[i] / most * (down - 16);
      svg.append(
        s("rect", { class: "step", x: x + 1, y: 18 + up - a - 18, width: Math.max(cell - 2, 1), height: a, fill: colour }),
        s("rect", { class: "held", x: x + 1, y: mid, width: Math.max(cell - 2, 1), height: b, fill: colour,
          "data-held": held[i] }),
        s("text", { x: x + cell / 2, y: mid - 12, "text-anchor": "middle",
          style: `font-family:monospace;font-size:${Math.max(12, Math.min(16, cell * 1.4)).toFixed(1)}px;`
            + (through[i] ? "font-weight:700" : "") }, c));
    });
    ui.body.replaceChildren(svg);
    const all = held.reduce((a, b) => a + b, 0) || 1;
    const ours = held.filter((_, i) => through[i]).reduce((a, b) => a + b, 0);
    const first = through.indexOf(true);
    const total = steps.slice(first + 1).reduce((a, b) => a + b, 0);
    const left = first < 0 ? "" : ` Of the first, “${text[first].replace(/[<&]/g, "·")}”, `
      + `exp(ΔA) after ${n - first - 1} characters leaves <b>${(100 * Math.exp(-get("rate") * total)).toPrecision(2)}%</b>.`;
    ui.say(`<b>${(100 * ours / all).toFixed(0)}%</b> of the state comes from what counts.${left}`);
  }
  return redraw(model, ui.body, ["text", "rule", "large", "small", "rate", "mute"], draw);
}

export default { render };
