const shown = (c) => c === "\n" ? "⏎" : c === " " ? "␣" : c;

function read(w, alphabet, text) {
  const ids = [...text].map((c) => alphabet.indexOf(c));
  const x = matrix(ids.length, alphabet.length);
  ids.forEach((id, t) => { x.data[t * x.cols + id] = 1; });
  const states = rnn(x, w), logits = linear(states, w.out, w.out_bias);
  const guesses = ids.map((_, t) => softmax([...row(logits, t)]));
  const nats = ids.slice(1).map((id, t) => -Math.log(guesses[t][id]));
  return { states, guesses, nats: nats.reduce((a, b) => a + b, 0) / nats.length };
}

function render({ model, el }) {
  const ui = frame(model, el, "A recurrent network reads your text");
  const get = (name) => model.get(name), alphabet = get("alphabet");
  const field = textField(alphabet, (text) =>
    put(model, { text, place: Math.min(get("place") ?? 0, text.length - 1) }));
  const unit = slider({ label: "Unit", name: "unit", min: 0, max: get("weights_shapes").weight_hh[1] - 1, step: 1,
    input: (u) => put(model, { unit: u }) });
  const place = slider({ label: "After character", name: "place", min: 0, max: 1, step: 1,
    show: (t) => `${t + 1}`, input: (t) => put(model, { place: t }) });
  ui.controls.append(field.node, unit.node, place.node);
  let w = null, fault = "";

  function draw(width) {
    const text = get("text"), u = get("unit"), t = Math.min(get("place"), text.length - 1);
    field.show(text);
    unit.set(u);
    place.range.max = text.length - 1;
    place.set(t);
    if (!w) { ui.say(fault || "The network is on its way …"); return; }
    const { states, guesses, nats } = read(w, alphabet, text);
    const letters = h("p", { class: "letters", style: "font:16px/1.9 ui-monospace,monospace;margin:.2rem 0 .8rem;"
      + "overflow-wrap:anywhere" }, [...text].map((c, i) => {
      const v = row(states, i)[u], colour = v > 0 ? "orange" : "blue";
      return h("span", { class: "letter", "data-h": v, onclick: () => put(model, { place: i }),
        style: `padding:3px 1px;cursor:pointer;background:color-mix(in srgb,var(--${colour}) ${Math.round(38 * Math.abs(v))}%,`
          + `transparent);${i === t ? "outline:2px solid var(--ink);outline-offset:-1px" : ""}` }, shown(c));
    }));
    const order = guesses[t].map((p, id) => [p, id]).sort((a, b) => b[0] - a[0]).slice(0, 6);
    const next = text[t + 1], left = 34, wide = width - left - 60;
    const svg = s("svg", { viewBox: `0 0 ${width} ${order.length * 24 + 22}`, height: order.length * 24 + 22,
      "aria-hidden": "true" }, s("text", { class: "soft", x: 2, y: 13 }, "expected next"));
    order.forEach(([p, id], k) => {
      const right = alphabet[id] === next;
      svg.append(s("text", { x: left - 10, y: 38 + 24 * k, "text-anchor": "end",
        style: `font-family:monospace;font-size:15px;${right ? "font-weight:700" : ""}` }, shown(alphabet[id])),
      s("rect", { class: "guess", x: left, y: 25 + 24 * k, width: Math.max(1, wide * p), height: 17, rx: 3,
        fill: `var(--${right ? "green" : "soft"})`, "data-id": id, "data-p": p }),
      s("text", { x: left + wide * p + 6, y: 38 + 24 * k }, `${(100 * p).toFixed(0)} %`));
    });
    ui.body.replaceChildren(letters, svg);
    ui.readout.dataset.nats = nats;
    const told = next === undefined ? ""
      : ` Next comes “${shown(next).replace(/[<&]/g, "·")}”, which it gives ${(100 * guesses[t][alphabet.indexOf(next)]).toPrecision(2)} %.`;
    ui.say(`Unit ${u} stands at <b>${fixed(2)(row(states, t)[u])}</b>.${told} Over your text: <b>${nats.toFixed(2)}</b> nats a character.`);
  }
  weightsOf(model).then((found) => { w = found; }, (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); });
  return redraw(model, ui.body, ["text", "unit", "place"], draw);
}

export default { render };
