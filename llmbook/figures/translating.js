const MOST = 34, WORDS = 20;

// √d E[ids] + PE, with sine and cosine of a frequency side by side.
function embedded(w, ids, positions) {
  const table = w["tokens.weight"], d = table.cols, x = each(embedding(ids, table), (v) => v * Math.sqrt(d));
  if (positions) for (let t = 0; t < ids.length; t++) for (let i = 0; i < d; i += 2) {
    const angle = t / 10000 ** (i / d);
    x.data[t * d + i] += Math.sin(angle);
    x.data[t * d + i + 1] += Math.cos(angle);
  }
  return x;
}

// Rows from … from + count of a stacked weight, and of its bias.
const rows = (m, from, count) => matrix(count, m.cols, m.data.subarray(from * m.cols, (from + count) * m.cols));
const part = (b, from, count) => matrix(1, count, b.data.subarray(from, from + count));

// One attention of the model by its name in the weights; { out, weights: [head][query][key] }.
function attend(w, name, x, context, options) {
  const W = w[`${name}.in_proj_weight`], b = w[`${name}.in_proj_bias`], d = W.cols;
  const [q, k, v] = [x, context, context].map((from, i) => linear(from, rows(W, i * d, d), part(b, i * d, d)));
  const found = attention(q, k, v, options);
  return { out: linear(found.out, w[`${name}.out_proj.weight`], w[`${name}.out_proj.bias`]), weights: found.weights };
}

// A Transformer with norms before its sub-layers. memory(ids), then step(memory, written): the logits after each token, and
// cross-attention's weights [layer][head][written][source].
function makeTranslator(w, heads, without) {
  const norm = (x, name) => layerNorm(x, w[`${name}.weight`], w[`${name}.bias`]);
  const transform = (x, name) => plus(x, feedForward(norm(x, `${name}.transform.norm`), {
    up: w[`${name}.transform.sublayer.up.weight`], upBias: w[`${name}.transform.sublayer.up.bias`],
    down: w[`${name}.transform.sublayer.down.weight`], downBias: w[`${name}.transform.sublayer.down.bias`] }, relu));
  const depth = (stack) => Object.keys(w).filter((n) => n.startsWith(stack) && n.endsWith("attend.norm.weight")).length;
  const places = without !== "positions";
  return {
    memory(ids) {
      let x = embedded(w, ids, places);
      for (let i = 0; i < depth("encoder."); i++) {
        const name = `encoder.${i}`, z = norm(x, `${name}.attend.norm`);
        x = transform(plus(x, attend(w, `${name}.attend.sublayer`, z, z, { heads }).out), name);
      }
      return norm(x, "encoder_norm");
    },
    step(memory, written) {
      let y = embedded(w, written, places);
      const seen = [];
      for (let i = 0; i < depth("decoder."); i++) {
        const name = `decoder.${i}`, z = norm(y, `${name}.attend.norm`);
        y = plus(y, attend(w, `${name}.attend.sublayer`, z, z, { heads, causal: without !== "mask" }).out);
        const cross = attend(w, `${name}.cross.sublayer`, norm(y, `${name}.cross.norm`), memory, { heads });
        if (without !== "cross-attention") y = plus(y, cross.out);
        seen.push(cross.weights);
        y = transform(y, name);
      }
      return { logits: linear(norm(y, "decoder_norm"), w["tokens.weight"]), seen };
    },
  };
}

// Greedy: { ids, chances, seen } of what is written, with its end if it comes.
function translate(w, heads, without, source) {
  const model = makeTranslator(w, heads, without), memory = model.memory(source), written = [1], chances = [];
  let seen = [];
  while (written.length <= MOST) {
    const found = model.step(memory, written), p = softmax([...row(found.logits, written.length - 1)]);
    const best = p.indexOf(Math.max(...p));
    seen = found.seen;
    chances.push(p[best]);
    written.push(best);
    if (best === 2) break;
  }
  return { ids: written.slice(1), chances, seen };
}

function render({ model, el }) {
  const ui = frame(model, el, "A Transformer translates your sentence");
  const get = (name) => model.get(name), vocabulary = get("vocabulary"), known = new Set(get("known")), heads = get("heads");
  const name = (id) => vocabulary[id] === "</s>" ? "end" : vocabulary[id];
  const wordsOf = (text) => text.toLowerCase().match(/[a-z]+/g) ?? [];
  const field = h("input", { type: "text", maxlength: 160, "aria-label": "Your sentence", "data-name": "text",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:7px",
    oninput: () => {
      const words = wordsOf(field.value), usable = words.filter((word) => known.has(word)).slice(0, WORDS);
      strange = words.filter((word) => !known.has(word));
      if (usable.length) put(model, { text: usable.join(" "), token: -1 });
      again();
    } });
  const layer = choice({ label: "Layer", name: "layer", input: (i) => put(model, { layer: i }),
    options: [...Array(Object.keys(get("weights_shapes")).filter((n) => n.endsWith("cross.norm.weight")).length).keys()]
      .map((i) => [i, String(i + 1)]) });
  const head = choice({ label: "Head", name: "head", input: (i) => put(model, { head: i }),
    options: [...Array(heads).keys()].map((i) => [i, String(i + 1)]) });
  const without = choice({ label: "Take out", name: "without", input: (x) => put(model, { without: x }),
    options: ["nothing", "positions", "cross-attention", "mask"].map((x) => [x, x]) });
  const list = h("p", { class: "note", style: "flex:1 1 100%;margin:0", hidden: true }, get("known").join(" · "));
  const more = button("Words that it knows", () => {
    list.hidden = !list.hidden;
    more.setAttribute("aria-expanded", String(!list.hidden));
  }, { "data-name": "words", "aria-expanded": "false" });
  ui.controls.append(h("label", { style: "flex:1 1 100%" }, h("span", {}, "Your sentence"), field),
    more, list, without.node, layer.node, head.node);
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "What it writes; the token that is looked at is framed",
    style: "margin-top:.2rem" });
  ui.body.before(strip);
  let w = null, fault = "", strange = [], last = "", found = null;
  const again = () => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); };

  function draw(width) {
    const words = get("text").split(" ");
    if (document.activeElement !== field) { field.value = get("text"); strange = []; }
    layer.set(get("layer")); head.set(get("head")); without.set(get("without"));
    if (!w) { ui.say(fault || "The network is on its way …"); return; }
    const key = `${get("without")} ${get("text")}`;
    if (key !== last) found = translate(w, heads, get("without"), [...words.map((word) => vocabulary.indexOf(word)), 2]);
    last = key;
    const { ids, chances, seen } = found, n = ids.length;
    const at = get("token") < 0 || get("token") >= n ? n - 1 : get("token");
    const focused = strip.contains(document.activeElement);
    strip.replaceChildren(...ids.map((id, t) => h("button", { type: "button", class: "token", "data-t": t, "data-id": id,
      "data-p": chances[t], "aria-current": String(t === at), "aria-label": `${name(id)}, probability ${fixed(2)(chances[t])}`,
      onclick: () => put(model, { token: t }) }, name(id))));
    if (focused) strip.children[at].focus();
    const sources = [...words, "end"], map = seen[get("layer")][get("head")];
    const left = 62, top = 66, cell = Math.min(34, (width - left - 4) / sources.length), tall = 20;
    const svg = s("svg", { viewBox: `0 0 ${width} ${top + n * tall + 6}`, height: top + n * tall + 6, "aria-hidden": "true", class: "map" });
    sources.forEach((word, j) => svg.append(s("text", { x: 0, y: 0, "text-anchor": "start", style: "font-size:13px",
      transform: `translate(${(left + (j + 0.5) * cell + 3).toFixed(1)} ${top - 6}) rotate(-50)` }, word)));
    ids.forEach((id, t) => {
      svg.append(s("text", { x: left - 6, y: top + t * tall + 14.5, "text-anchor": "end", style: t === at ? "font-weight:650" : "" }, name(id)));
      map[t].forEach((v, j) => svg.append(s("rect", { class: "cell", x: (left + j * cell).toFixed(1), y: top + t * tall,
        width: (cell - 1).toFixed(1), height: tall - 1, "data-t": t, "data-j": j, "data-value": v, style: "cursor:pointer",
        fill: "var(--blue)", "fill-opacity": Math.max(0.04, v).toFixed(3), onclick: () => put(model, { token: t }) })));
    });
    svg.append(s("rect", { x: 1, y: top + at * tall - 1, width: left + sources.length * cell - 1, height: tall + 1, fill: "none",
      stroke: "var(--orange)", "stroke-width": 1.6, rx: 2 }));
    ui.body.replaceChildren(svg);
    const best = map[at].map((v, j) => [v, j]).sort((a, b) => b[0] - a[0]).slice(0, 2).filter(([v]) => v > 0.1);
    const told = ids.filter((id) => id !== 2).map(name).join(" ").replaceAll(" -", "");
    ui.readout.dataset.told = told;
    const odd = strange.length ? ` Left out, as it does not know ${strange.length > 1 ? "them" : "it"}: ${strange.slice(0, 4).join(", ")}.` : "";
    ui.say(`It writes <b>${told}</b>. For “${name(ids[at])}” (p = ${fixed(2)(chances[at])}) this head looks at `
      + `${best.map(([v, j]) => `“${sources[j]}” ${fixed(2)(v)}`).join(", ") || "everything a little"}.${odd}`);
  }
  weightsOf(model).then((got) => { w = got; }, (error) => { fault = String(error.message); }).then(again);
  return redraw(model, ui.body, ["text", "layer", "head", "token", "without"], draw);
}

export default { render };
