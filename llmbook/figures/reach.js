// The sizes of the gradient of -log p(last character) at every state before it, as shares of the last.
function reachOf(w, alphabet, text, gain) {
  const ids = [...text].map((c) => alphabet.indexOf(c)), n = ids.length - 1;
  const x = matrix(n, alphabet.length);
  for (let t = 0; t < n; t++) x.data[t * x.cols + ids[t]] = 1;
  const states = rnn(x, w, gain), last = matrix(1, states.cols, row(states, n - 1));
  const error = softmax([...linear(last, w.out, w.out_bias).data]);
  const p = error[ids[n]];
  error[ids[n]] -= 1;
  const start = new Float64Array(states.cols);
  error.forEach((e, i) => { for (let k = 0; k < start.length; k++) start[k] += e * w.out.data[i * start.length + k]; });
  const back = rnnBackward(states, w, start, gain);
  const size = (t) => Math.sqrt(row(back, t).reduce((a, b) => a + b * b, 0));
  return { p, shares: Array.from({ length: n }, (_, t) => size(t) / size(n - 1)) };
}

function render({ model, el }) {
  const ui = frame(model, el, "How far back does the news of a mistake travel?");
  const get = (name) => model.get(name), alphabet = get("alphabet");
  const field = textField(alphabet, (text) => put(model, { text }));
  const gain = slider({ label: "W_hh times", name: "gain", min: 0.2, max: 3, step: 0.05, show: fixed(2),
    input: (x) => put(model, { gain: x }) });
  ui.controls.append(field.node, gain.node);
  let w = null, fault = "";

  function draw(width) {
    const text = get("text");
    field.show(text);
    gain.set(get("gain"));
    if (!w) { ui.say(fault || "The network is on its way …"); return; }
    const { p, shares } = reachOf(w, alphabet, text, get("gain")), n = shares.length;
    const low = -8, high = 4, height = (v) => Math.max(low, Math.min(high, v > 0 ? Math.log10(v) : low));
    const view = chart({ width, height: 300, log: true, x: [Math.min(1 - n, -1), 0], y: [low, high],
      xlabel: "characters back", ylabel: "gradient there, as a multiple of the last" });
    const { area, px, py } = view;
    area.append(s("line", { x1: px(1 - n), x2: px(0), y1: py(0), y2: py(0), stroke: "var(--soft)", "stroke-dasharray": "4 4" }),
      line(view, shares.map((v, t) => [t + 1 - n, height(v)]), { stroke: "var(--blue)" }));
    const room = (width - 60) / n;
    shares.forEach((v, t) => {
      const x = px(t + 1 - n), y = py(height(v));
      area.append(s("circle", { class: "point", cx: x.toFixed(2), cy: y.toFixed(2), r: 3, fill: "var(--blue)",
        "data-back": n - 1 - t, "data-value": v }));
      if (room >= 12) area.append(s("text", { x, y: py(high) + 16, "text-anchor": "middle",
        style: "font-family:monospace;font-size:14px" }, text[t] === " " ? "␣" : text[t]));
    });
    ui.body.replaceChildren(view.svg);
    const at = (k) => k < n ? `${k} back <b>${format(shares[n - 1 - k])}</b>` : "";
    const told = [5, 10, 20, 40].map(at).filter(Boolean).join(", ");
    ui.readout.dataset.p = p;
    ui.say(`It gave the last character, “${(text[n] === " " ? "␣" : text[n]).replace(/[<&]/g, "·")}”, ${(100 * p).toPrecision(2)} %.`
      + (told ? ` Of the gradient arrives ${told}.` : ""));
  }
  weightsOf(model).then((found) => { w = found; }, (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); });
  return redraw(model, ui.body, ["text", "gain"], draw);
}

export default { render };
