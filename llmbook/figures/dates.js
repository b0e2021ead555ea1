const joined = (...parts) => {
  const data = parts.flatMap((part) => [...part.data ?? part]);
  return matrix(1, data.length, Float64Array.from(data));
};
const spoken = (c) => (c === " " ? "␣" : c);

// What the translator writes for a text: for each of ten characters { id, p, weights }. `hidden`: for
// each letter whether attention must not read it; `best`: whether it may read the one it wants most.
function translate(w, text, { alphabet, hidden, best }) {
  const ids = [...text].map((c) => alphabet.indexOf(c)), n = ids.length, x = embedding(ids, w["source.weight"]);
  const named = (head, tail = "") => Object.fromEntries(["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    .map((name) => [name, w[`${head}.${name}${tail}`]]));
  const there = gru(x, named("encoder", "_l0"));
  const back = gru(x, named("encoder", "_l0_reverse"), { backwards: true });
  const states = ids.map((_, j) => joined(row(there, j), row(back, j)));
  let s = each(linear(joined(row(there, n - 1), row(back, 0)), w["first.weight"], w["first.bias"]), Math.tanh);
  const U = states.map((h) => linear(h, w["score.U.weight"], w["score.U.bias"]).data);
  const v = w["score.v.weight"].data, targets = w["target.weight"];
  let previous = row(targets, targets.rows - 1);
  return Array.from({ length: 10 }, () => {
    const Ws = linear(s, w["score.W.weight"]).data;
    const scores = U.map((u, j) => (hidden[j] ? -Infinity
      : u.reduce((sum, value, k) => sum + v[k] * Math.tanh(Ws[k] + value), 0)));
    if (!best && hidden.filter((h) => !h).length > 1) scores[scores.indexOf(Math.max(...scores))] = -Infinity;
    const weights = softmax(scores), context = new Float64Array(states[0].cols);
    weights.forEach((p, j) => states[j].data.forEach((value, k) => { context[k] += p * value; }));
    s = gru(joined(previous, context), named("cell"), { h: s });
    const law = softmax([...linear(joined(s, context, previous), w["out.weight"], w["out.bias"]).data]);
    const id = law.indexOf(Math.max(...law));
    previous = row(targets, id);
    return { id, p: law[id], weights };
  });
}

function field(label, name, input) {
  const node = h("input", { type: "text", maxlength: 36, "data-name": name,
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:7px", oninput: () => input(node.value) });
  return { node, box: h("label", { style: "flex:1 1 14rem" }, h("span", {}, label), node) };
}

// Rows: the characters written; columns: the letters read; the darker, the more attention.
function heatMap(width, text, found, step, written) {
  const left = 26, cell = (width - left - 2) / text.length, high = 21, top = cell >= 12 ? 20 : 4;
  const svg = s("svg", { viewBox: `0 0 ${width} ${top + 10 * high + 20}`, height: top + 10 * high + 20, "aria-hidden": "true" });
  if (top > 4) {
    [...text].forEach((c, j) => svg.append(s("text", { x: left + (j + 0.5) * cell, y: 14, "text-anchor": "middle",
      style: "font-family:monospace;font-size:14px" }, spoken(c))));
  }
  found.forEach(({ id, weights }, t) => {
    svg.append(s("text", { x: left - 8, y: top + t * high + 15, "text-anchor": "end",
      style: `font-family:monospace;font-size:15px;${t === step ? "font-weight:700" : ""}` }, written[id]));
    weights.forEach((p, j) => svg.append(s("rect", { class: "weight", x: (left + j * cell).toFixed(2), y: top + t * high,
      width: Math.max(1, cell - 1).toFixed(2), height: high - 1, fill: "var(--blue)", "fill-opacity": (0.04 + 0.96 * p).toFixed(3),
      "data-t": t, "data-j": j, "data-p": p })));
  });
  svg.append(s("rect", { x: left - 1, y: top + step * high - 1, width: width - left, height: high + 1, fill: "none",
    stroke: "var(--ink)" }), s("text", { class: "soft", x: left, y: top + 10 * high + 15 }, "letters read →"));
  return svg;
}

function render({ model, el }) {
  const ui = frame(model, el, "Where does it look while it writes your date?");
  const get = (name) => model.get(name), alphabet = get("alphabet"), written = get("written");
  let left = "";
  const text = field("Your date", "text", (typed) => {
    const known = [...typed].filter((c) => alphabet.includes(c)).join("");
    left = [...new Set([...typed].filter((c) => !alphabet.includes(c)))].join(" ");
    if (known.length >= 2) put(model, { text: known, hide: known.includes(get("hide")) ? get("hide") : "" });
  });
  const hide = field("Hide from attention", "hide", (piece) => {
    if (get("text").includes(piece) && piece !== get("text")) put(model, { hide: piece });
  });
  const step = slider({ label: "Character written", name: "step", min: 0, max: 9, step: 1, show: (t) => `${t + 1} of 10`,
    input: (t) => put(model, { step: t }) });
  const best = choice({ label: "Its favourite letter", name: "best", options: [[true, "may be read"], [false, "is hidden"]],
    input: (on) => put(model, { best: on }) });
  ui.controls.append(text.box, hide.box, step.node, best.node);
  let w = null, fault = "";

  function draw(width) {
    const line = String(get("text")), t = get("step"), piece = String(get("hide"));
    for (const [one, value] of [[text, line], [hide, piece]]) if (document.activeElement !== one.node) one.node.value = value;
    step.set(t);
    best.set(get("best"));
    if (!w) { ui.say(fault || "The translator is on its way …"); return; }
    const at = piece ? line.indexOf(piece) : -1;
    const hidden = [...line].map((_, j) => at >= 0 && piece !== line && j >= at && j < at + piece.length);
    const found = translate(w, line, { alphabet, hidden, best: get("best") }), { weights } = found[t];
    const mono = "font:17px/1.9 ui-monospace,monospace;margin:.1rem 0;overflow-wrap:anywhere";
    ui.body.replaceChildren(
      h("p", { style: mono }, [...line].map((c, j) => h("span", { class: "letter", "data-weight": weights[j],
        style: `padding:3px 1px;background:color-mix(in srgb,var(--blue) ${Math.round(45 * weights[j])}%,transparent);`
          + (hidden[j] ? "text-decoration:line-through" : "") }, spoken(c)))),
      h("p", { style: mono }, found.map(({ id, p }, i) => h("span", { class: "wrote", "data-id": id, "data-p": p,
        onclick: () => put(model, { step: i }), style: `padding:3px 4px;cursor:pointer;${i === t
          ? "outline:2px solid var(--ink);outline-offset:-1px" : ""}` }, written[id]))),
      heatMap(width, line, found, t, written));
    const top = weights.map((p, j) => [p, j]).sort((a, b) => b[0] - a[0]).slice(0, 2);
    const safe = (c) => spoken(c).replace(/[<&]/g, "·");
    ui.readout.dataset.text = found.map(({ id }) => written[id]).join("");
    ui.say(`It writes <b>${ui.readout.dataset.text}</b>. For character ${t + 1}, “${written[found[t].id]}” (${(100 * found[t].p)
      .toFixed(0)} % sure), most attention goes to ${top.map(([p, j]) => `“${safe(line[j])}”, letter ${j + 1}: <b>${p.toFixed(2)}</b>`)
      .join("; then ")}.` + (left ? ` It never met ${left.replace(/[<&]/g, "·")}; left out.` : ""));
  }
  weightsOf(model).then((found) => { w = found; }, (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); });
  return redraw(model, ui.body, ["text", "step", "hide", "best"], draw);
}

export default { render };
