const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE = Object.fromEntries([...ALPHABET].map((letter, i) => [letter, i]));
const SHOWN = 12; // bars
const percent = (p) => (p >= 0.0995 ? `${fixed(0)(100 * p)}%` : p >= 0.00095 ? `${fixed(1)(100 * p)}%`
  : p > 0 ? "<0.1%" : "0%");
const bits = fixed(2);

function unpacked(text) { // log-probabilities, in nats, summing to 1
  const out = new Array(text.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = -0.005 * (64 * VALUE[text[2 * i]] + VALUE[text[2 * i + 1]]);
  const total = Math.log(out.reduce((sum, v) => sum + Math.exp(v), 0));
  return out.map((v) => v - total);
}

function bars({ width, rows, came, drawn, vocabulary, choose }) {
  const tall = 23, left = Math.min(130, 0.34 * width), right = 52;
  const svg = s("svg", { viewBox: `0 0 ${width} ${tall * rows.length + 4}`,
    height: tall * rows.length + 4, "aria-hidden": "true" });
  const most = Math.max(...rows.map((row) => Math.max(row.p, row.raw)), 1e-9);
  rows.forEach(({ id, p, raw }, n) => {
    const y = 2 + tall * n, wide = (v) => Math.max(0, (width - left - right) * v / most);
    svg.append(
      s("text", { x: left - 8, y: y + 15.5, "text-anchor": "end",
        style: id === came ? "font-weight:650" : null }, visible(vocabulary[id]).slice(0, 16)),
      s("rect", { class: "bar", x: left, y: y + 2, width: wide(p), height: tall - 6,
        fill: `var(--${id === drawn ? "orange" : id === came ? "green" : "blue"})`,
        "data-id": id, "data-p": p }),
      s("rect", { x: left, y: y + 2, width: wide(raw), height: tall - 6, fill: "none",
        stroke: "var(--ink)", "stroke-dasharray": "3 3" }),
      s("text", { class: "soft", x: left + Math.max(wide(p), wide(raw)) + 6, y: y + 15.5 }, percent(p)));
  });
  return svg;
}

// How much each head of each block looks at each token so far: a row a head, a column a token.
function attentionGrid({ width, weights, names }) {
  const left = 62, tall = 13, gap = 6, n = names.length;
  const cell = Math.min(26, (width - left - 2) / n), named = cell >= 13, heads = weights[0].length;
  const top = 18, grid = weights.length * (heads * tall + gap), foot = named ? 78 : 6;
  const svg = s("svg", { viewBox: `0 0 ${width} ${top + grid + foot}`, height: top + grid + foot, "aria-hidden": "true" },
    s("text", { class: "soft", x: 2, y: 12 }, "from the chosen place; a row a head"));
  weights.forEach((block, b) => {
    const y0 = top + b * (heads * tall + gap);
    svg.append(s("text", { x: left - 8, y: y0 + heads * tall / 2 + 4.5, "text-anchor": "end" }, `block ${b + 1}`),
      s("rect", { x: left, y: y0, width: n * cell, height: heads * tall, fill: "var(--well)" }));
    block.forEach((row, h) => row.forEach((weight, j) => {
      svg.append(s("rect", { class: "weight", x: left + j * cell, y: y0 + h * tall, width: Math.max(cell - 1, 1),
        height: tall - 1, fill: "var(--orange)", "fill-opacity": Math.sqrt(weight), "data-at": `${b},${h},${j}`,
        "data-weight": weight }));
    }));
  });
  if (named) names.forEach((name, j) => {
    const x = left + (j + 0.5) * cell + 4, y = top + grid + 4;
    svg.append(s("text", { x, y, transform: `rotate(-90 ${x} ${y})`, "text-anchor": "end" }, name.slice(0, 9)));
  });
  return svg;
}

// What each layer would say already: the token it finds likeliest, and what it gives the final one.
function layerBars({ width, lens, best, nameOf }) {
  const tall = 23, left = 84, right = Math.min(150, 0.34 * width), top = 20;
  const svg = s("svg", { viewBox: `0 0 ${width} ${top + tall * lens.length + 4}`,
    height: top + tall * lens.length + 4, "aria-hidden": "true" },
    s("text", { class: "soft", x: 2, y: 12 }, `“${nameOf(best).slice(0, 8)}” by layer; right: its favourite`));
  lens.forEach((logits, layer) => {
    const p = logSoftmax(logits).map(Math.exp), own = p.indexOf(Math.max(...p)), y = top + tall * layer;
    const wide = (width - left - right) * p[best];
    svg.append(
      s("text", { x: left - 8, y: y + 15.5, "text-anchor": "end" }, layer ? `block ${layer}` : "embedding"),
      s("rect", { class: "lens", x: left, y: y + 2, width: wide, height: tall - 6, fill: "var(--green)",
        "data-layer": layer, "data-p": p[best], "data-own": own }),
      s("text", { class: "soft", x: left + wide + 6, y: y + 15.5 }, percent(p[best])),
      s("text", { x: width - 2, y: y + 15.5, "text-anchor": "end" }, `${nameOf(own).slice(0, 9)} ${percent(p[own])}`));
  });
  return svg;
}

const FIELD = "flex:1 1 12rem;min-width:0;min-height:34px;font:inherit;padding:.3rem .5rem;color:inherit;"
  + "background:var(--well);border:1px solid var(--line);border-radius:6px";
const LONGEST = 120, AT_ONCE = 40; // tokens of a prompt, and of what is written at one click
// Slider positions 0 … 17 stand for 1 … 100 tokens and, at the end, for all of them.
const STOPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 0];

function render({ model, el }) {
  const ui = frame(model, el, "What comes next?");
  const get = (name) => model.get(name), stored = { texts: get("texts"), ids: get("ids") };
  const vocabulary = get("vocabulary"), canRead = Boolean(get("weights_name"));
  const logs = get("packed").map((rows) => rows.map(unpacked));
  let drawn = null, tally = 0, hits = 0, width = 0;
  const forget = () => { drawn = null; tally = 0; hits = 0; };

  // --- the text that is shown: a stored one, or one that the model in the page reads and writes
  let live = null, engine = null, job = 0, busy = false, asking = false, waiting, told = "";
  const shown = () => live ?? { tokens: stored.texts[get("text")], ids: stored.ids[get("text")],
    logs: logs[get("text")] };
  const last = () => shown().ids.length - 1;
  const at = () => Math.min(get("place"), last()); // the text may just have changed
  const go = (place) => { forget(); put(model, { place: Math.max(0, Math.min(last(), place)) }); };
  const ready = async () => {
    if (engine) return engine;
    note.textContent = "Loading the model …";
    const weights = await weightsOf(model), { begin, ...sizes } = get("model_config");
    engine = { gpt: makeGPT(weights, sizes), text: makeTokenizer(get("tokenizer")), begin, read: [] };
    return engine;
  };
  // Let the model read ids; what it has read already is in its cache.
  const read = (ids) => {
    let same = 0;
    while (same < engine.read.length && engine.read[same].id === ids[same]) same++;
    engine.read.length = same;
    engine.gpt.crop(same);
    const start = performance.now();
    for (const id of ids.slice(same)) {
      const { logits, lens, attention } = engine.gpt.read([id], true);
      engine.read.push({ id, logits, log: logSoftmax(logits), lens, attention });
    }
    const seconds = (performance.now() - start) / 1000;
    live = { ids, tokens: ids.map((id) => vocabulary[id]), logs: engine.read.map((one) => one.log) };
    return seconds;
  };
  const trouble = (error) => { stop(); note.textContent = `The model cannot run here: ${error.message}`; };
  const stop = () => { job += 1; busy = false; };
  const explain = () => {
    note.textContent = told + "Filled bars: what is drawn from. Dashed: what the model said before "
      + "temperature and cuts. Shade of a token: its surprise.";
  };
  const typed = () => {
    const prompt = String(get("prompt"));
    stop();
    told = "";
    forget();
    if (!prompt) { live = null; go(last()); show(); return; }
    const mine = job;
    ready().then(({ text, begin }) => {
      if (mine !== job) return;
      const ids = [begin, ...text.encode(prompt)];
      if (ids.length > LONGEST) told = `Only the first ${LONGEST - 1} tokens are read. `;
      read(ids.slice(0, LONGEST));
      go(last());
      show();
    }).catch(trouble);
  };
  const asLive = () => {
    asking = true;
    ready().then(() => { asking = false; if (!live) { read([...shown().ids]); show(); } }).catch(trouble);
  };
  const writeOn = () => ready().then(({ gpt, begin }) => {
    if (!live) read([...shown().ids]);
    stop();
    forget();
    const mine = job;
    let wrote = 0, seconds = 0;
    busy = true;
    const step = () => {
      if (mine !== job || !el.isConnected) return;
      const ids = live.ids, full = ids.length === gpt.max_len;
      const id = full ? null : drawFrom(cutTo(live.logs[ids.length - 1], ...settings()), Math.random());
      if (!full) { seconds += read([...ids, id]); wrote += 1; }
      busy = !full && id !== begin && wrote < AT_ONCE;
      told = `${wrote} tokens written, ${fixed(1)(1000 * seconds / Math.max(1, wrote))} ms each. `
        + (id === begin ? "The model ended the text. " : full ? `Its ${gpt.max_len} places are full. ` : "");
      Object.assign(note.dataset, { wrote, seconds });
      put(model, { place: last() });
      show();
      if (busy) setTimeout(step, 0);
    };
    step();
  }).catch(trouble);

  // --- controls
  const which = choice({ label: "Text", name: "text", options: stored.texts.map((_, i) => [i, String(i + 1)]),
    input: (i) => { forget(); live = null; put(model, { prompt: "", text: i, place: stored.texts[i].length - 1 }); show(); } });
  const back = button("◀ Back", () => go(at() - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(at() + 1), { "data-name": "next" });
  const setter = (name) => (v) => { forget(); put(model, { [name]: v }); };
  const settings = () => ["temperature", "top_k", "top_p", "min_p"].map(get);
  const warm = slider({ label: "Temperature", name: "temperature", min: 0.1, max: 2, step: 0.05,
    show: fixed(2), input: setter("temperature") });
  const most = slider({ label: "Top-k", name: "top_k", min: 0, max: STOPS.length - 1, step: 1,
    show: (i) => (STOPS[i] ? `${STOPS[i]}` : "all"), input: (i) => setter("top_k")(STOPS[i]) });
  const mass = slider({ label: "Top-p", name: "top_p", min: 0.05, max: 1, step: 0.05, show: fixed(2),
    input: setter("top_p") });
  const least = slider({ label: "Min-p", name: "min_p", min: 0, max: 0.9, step: 0.05, show: fixed(2),
    input: setter("min_p") });
  const draw_ = button("Draw a token", () => {
    drawn = drawFrom(present(), Math.random());
    tally += 1;
    hits += drawn === came() ? 1 : 0;
    show();
  }, { "data-name": "draw" });
  const field = h("input", { type: "text", maxlength: 400, "aria-label": "Your text", "data-name": "prompt",
    placeholder: "Type a text in English", autocomplete: "off", spellcheck: "false", style: FIELD,
    onfocus: () => { ready().then(explain).catch(trouble); },
    oninput: () => { clearTimeout(waiting); waiting = setTimeout(() => put(model, { prompt: field.value }), 150); } });
  const write = button("Write on", () => { if (busy) { stop(); show(); } else writeOn(); },
    { "data-name": "write" });
  const inside = choice({ label: "Look inside", name: "inside", options: [["", "nothing"], ["attention", "attention"],
    ["layers", "layers"]], input: (v) => put(model, { inside: v }) });
  if (canRead) ui.controls.append(h("div", { class: "walk", style: "flex:1 1 100%;flex-wrap:wrap" }, field, write));
  if (stored.texts.length > 1) ui.controls.append(which.node);
  ui.controls.append(h("div", { class: "walk" }, back, next));
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "Tokens, shaded by surprise",
    style: "row-gap:4px" });
  ui.controls.after(strip);
  const knobs = [warm, most, mass, least].map(({ node }) => node);
  for (const node of knobs) node.style.flex = "1 1 max(40%, 9rem)"; // two in a row, one on a phone
  strip.after(h("div", { class: "controls" }, knobs),
    h("div", { class: "walk", style: "margin-bottom:.5rem" }, draw_));
  const note = h("p", { class: "note" });
  const box = h("div", { class: "inside", style: "margin-top:.6rem" });
  ui.readout.after(note, ...(canRead ? [inside.node, box] : []));
  explain();

  const came = () => shown().ids[at() + 1] ?? null;
  const present = () => cutTo(shown().logs[at()], ...settings());
  const surprise = (place) => -shown().logs[place - 1][shown().ids[place]] / Math.LN2;

  // --- drawing
  function lookInside(place) {
    inside.set(get("inside"));
    const seen = live && engine?.read[place];
    if (!canRead || !get("inside") || !seen) { box.replaceChildren(); return ""; }
    const nameOf = (id) => visible(vocabulary[id]);
    if (get("inside") === "layers") {
      const best = seen.log.indexOf(Math.max(...seen.log));
      box.replaceChildren(layerBars({ width, lens: seen.lens, best, nameOf }));
      const first = seen.lens.findIndex((logits) => logits.indexOf(Math.max(...logits)) === best);
      return `Its favourite leads from ${first ? `block ${first}` : "the embedding"} on, not always to stay. `;
    }
    const names = live.tokens.slice(0, place + 1).map(visible);
    box.replaceChildren(attentionGrid({ width, weights: seen.attention, names }));
    let top = [0, 0, 0, -1];
    seen.attention.forEach((block, b) => block.forEach((row, i) => row.forEach((weight, j) => {
      if (j && weight > top[3]) top = [b, i, j, weight];
    })));
    return top[3] < 0 ? "" : `Strongest look, ⊔ aside: head ${top[1] + 1} of block ${top[0] + 1}, `
      + `${percent(top[3])} on “${safe(names[top[2]])}”. `;
  }

  function show() {
    if (!width) return;
    const { tokens, logs: all } = shown(), place = at(), { p, order } = present(), raw = all[place];
    if (get("inside") && canRead && !live && !asking) asLive();
    which.set(live ? -1 : get("text"));
    warm.set(get("temperature"));
    const stopAt = STOPS.findIndex((n) => n === get("top_k"));
    most.set(stopAt >= 0 ? stopAt : STOPS.findIndex((n) => n === 0 || n >= get("top_k")));
    mass.set(get("top_p"));
    least.set(get("min_p"));
    if (document.activeElement !== field) field.value = get("prompt");
    write.textContent = busy ? "Stop" : "Write on";
    back.disabled = place === 0;
    next.disabled = place === last();
    const focused = strip.contains(document.activeElement);
    strip.replaceChildren(...tokens.map((token, i) => {
      const bitsOf = i ? surprise(i) : 0;
      const shade = Math.round(4 * Math.min(10, bitsOf));
      return h("button", { type: "button", class: "token", "data-i": i, "data-bits": bitsOf,
        onclick: () => go(i), "aria-label": `${visible(token)}, surprise ${bits(bitsOf)} bits`,
        "aria-pressed": String(i === place),
        style: `background:color-mix(in srgb, var(--orange) ${shade}%, var(--paper));`
          + (i === place ? "outline:2px solid var(--blue);outline-offset:-1px" : "") }, visible(token));
    }));
    if (focused) strip.children[place].focus();
    const answer = came();
    const rows = order.slice(0, SHOWN).map((id) => ({ id, p: p[id], raw: Math.exp(raw[id]) }));
    for (const id of [answer, drawn]) {
      if (id !== null && !rows.some((row) => row.id === id)) {
        rows.push({ id, p: p[id], raw: Math.exp(raw[id]) });
      }
    }
    ui.body.replaceChildren(bars({ width, rows, came: answer, drawn, vocabulary }));
    const looked = lookInside(place);
    explain();
    const kept = p.filter((v) => v > 0), entropy = -kept.reduce((a, v) => a + v * Math.log2(v), 0);
    const choices = format(2 ** entropy);
    Object.assign(ui.readout.dataset, { entropy, kept: kept.length, best: order[0],
      surprise: answer === null ? "" : surprise(place + 1), drawn: drawn ?? "", live: live ? 1 : "" });
    const quote = (id) => `“${safe(visible(vocabulary[id]))}”`;
    ui.say(`After “${safe(visible(tokens[place]))}” the model expects <b>${quote(order[0])}</b> most. `
      + `Entropy <b>${bits(Math.max(0, entropy))}</b> bits, as of ${choices} equal choice${choices === "1" ? "" : "s"}; `
      + `${kept.length} of ${vocabulary.length} tokens left. `
      + (answer === null ? "The text ends here. "
        : `What came: ${quote(answer)}, surprise <b>${bits(surprise(place + 1))}</b> bits. `)
      + (drawn === null ? "" : `Drawn: <b>${quote(drawn)}</b> (draw ${tally}`
        + (answer === null ? "). " : `; the text’s own token ${hits} times). `)) + looked);
  }
  const onPrompt = () => typed();
  model.on("change:prompt", onPrompt);
  const clean = redraw(model, ui.body, ["text", "place", "temperature", "top_k", "top_p", "min_p", "inside"], (w) => {
    width = w;
    show();
  });
  if (get("prompt")) typed();
  return () => { stop(); model.off("change:prompt", onPrompt); clean(); };
}

export default { render };
