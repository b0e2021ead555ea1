const PATTERNS = ["previous token", "first token", "same token", "after an earlier copy"];
const CLEAR = 0.4;
const two = fixed(2);
const mean = (values) => (values.length ? values.reduce((a, b) => a + b) / values.length : 0);

// A head's scores, label and entropy, as heads.py computes them.
function describe(w, tokens) {
  const rows = w.map((_, i) => i).slice(1);
  const copies = [];
  tokens.forEach((token, i) => {
    const after = tokens.flatMap((other, j) => (j + 1 < i && other === token ? [j + 1] : []));
    if (after.length) copies.push(after.reduce((sum, j) => sum + w[i][j], 0));
  });
  const scores = [mean(rows.map((i) => w[i][i - 1])), mean(rows.map((i) => w[i][0])),
    mean(rows.map((i) => w[i][i])), mean(copies)];
  const best = scores.indexOf(Math.max(...scores));
  const entropy = mean(w.map((row) => row.reduce((sum, v) => sum - (v > 0 ? v * Math.log(v) : 0), 0)));
  const label = scores[best] >= CLEAR ? PATTERNS[best] : "diffuse";
  return { scores, score: scores[best], label, entropy };
}

// One path for each of six strengths: a map of 24 by 24 tokens stays a handful of elements.
function cells(w, width, height) {
  const n = w.length, dx = width / n, dy = height / n, levels = 6;
  const paths = Array.from({ length: levels }, () => "");
  w.forEach((row, i) => row.forEach((v, j) => {
    const level = Math.min(levels - 1, Math.floor(v * levels * 1.2));
    if (v < 0.03) return;
    const corner = `${(j * dx).toFixed(1)} ${(i * dy).toFixed(1)}`;
    paths[level] += `M${corner}h${dx.toFixed(2)}v${dy.toFixed(2)}h${(-dx).toFixed(2)}z`;
  }));
  return paths.flatMap((d, level) => (d ? [s("path", { d, fill: "var(--blue)",
    "fill-opacity": ((level + 1) / levels).toFixed(2) })] : []));
}

function thumbnail(w) {
  return s("svg", { viewBox: "-1 -1 66 66", "aria-hidden": "true",
    style: "width:100%;max-width:66px;margin:2px auto" },
  s("rect", { x: -0.5, y: -0.5, width: 65, height: 65, fill: "var(--paper)", stroke: "var(--line)" }),
  cells(w, 64, 64));
}

function bigMap(w, tokens, query, width, pick) {
  const left = Math.min(104, 14 + 7.4 * Math.max(...tokens.map((token) => token.length)));
  const side = Math.min(width - left - 2, 24 * tokens.length);
  const pitch = Math.max(15, side / tokens.length);
  const tall = pitch * tokens.length, step = side / tokens.length;
  const svg = s("svg", { viewBox: `0 0 ${width} ${tall + 24}`, "aria-hidden": "true", class: "map" });
  const area = s("g", { transform: `translate(${left} 2)` },
    s("rect", { width: side, height: tall, fill: "var(--well)", stroke: "var(--line)" }),
    cells(w, side, tall),
    s("rect", { x: -left + 1, y: query * pitch, width: left + side - 1, height: pitch, fill: "none",
      stroke: "var(--orange)", "stroke-width": 1.6, rx: 2 }));
  tokens.forEach((token, i) => {
    const most = Math.floor((left - 12) / 7.2);
    area.append(s("text", { x: -6, y: (i + 0.5) * pitch + 4.4, "text-anchor": "end",
      style: i === query ? "font-weight:650" : "" },
    token.length > most ? token.slice(0, most - 1) + "…" : token));
    w[i].forEach((v, j) => area.append(s("rect", { x: j * step, y: i * pitch, width: step,
      height: pitch, fill: "transparent", class: "cell", "data-i": i, "data-j": j, "data-value": v,
      style: "cursor:pointer", onclick: () => pick(i) })));
  });
  svg.append(area, s("text", { class: "soft", x: left, y: tall + 19 },
    width < 400 ? "the same words →" : "looked at: the same words, left to right"));
  return svg;
}

const FIELD = "flex:1 1 100%;min-width:0;box-sizing:border-box;min-height:34px;font:inherit;padding:.3rem .5rem;"
  + "color:inherit;background:var(--well);border:1px solid var(--line);border-radius:6px";
const LONGEST = 32; // tokens of a text
const WINDOWS = [2, 4, 8, 16, 0]; // slider positions; 0 is everything

// Mean surprise of all tokens but the first, in bits.
const cost = (ids, logits) => mean(ids.slice(1).map((id, t) => -logSoftmax(logits[t])[id] / Math.LN2));

// The reader's text, the head that is switched off, and what tokens may see: the model runs anew.
function makeReader(model, done, fail) {
  const get = (name) => model.get(name);
  let engine = null, job = 0, known = { key: null };
  const ready = async () => {
    if (engine) return engine;
    const { begin, ...sizes } = get("model_config"), weights = await weightsOf(model);
    engine = { gpt: makeGPT(weights, sizes), text: makeTokenizer(get("tokenizer")), begin };
    return engine;
  };
  return () => {
    const mine = ++job, prompt = String(get("prompt")), window = get("window"), off = get("off");
    if (!get("weights_name") || !(prompt || window || off)) { done(null); return; }
    ready().then(({ gpt, text, begin }) => {
      if (mine !== job) return;
      const whole = prompt ? [begin, ...text.encode(prompt)] : get("ids")[get("sentence")];
      const ids = whole.slice(0, LONGEST), key = ids.join();
      if (known.key !== key) known = { key, ...gpt.readWhole(ids) };
      const change = {
        keep: off ? (b, head) => b !== get("layer") || head !== get("head") : undefined,
        seen: window ? (i, j) => i - j < window || (get("first") && j === 0) : undefined };
      const now = off || window ? gpt.readWhole(ids, change) : known;
      done({ tokens: ids.map(text.name).map(visible), weights: now.maps, cut: whole.length > LONGEST,
        before: cost(ids, known.logits), now: cost(ids, now.logits) });
    }).catch((error) => { if (mine === job) fail(error); });
  };
}

function render({ model, el }) {
  const ui = frame(model, el, "What each head looks at");
  const get = (name) => model.get(name), canRead = Boolean(get("weights_name"));
  const sentences = get("sentences"), all = get("weights_stored");
  const layers = all[0].length, heads = all[0][0].length;
  let live = null, width = 0, trouble = "";
  const shown = () => live ?? { tokens: sentences[get("sentence")], weights: all[get("sentence")] };
  const last = () => shown().tokens.length - 1, at = () => Math.min(get("query"), last());
  const go = (query) => put(model, { query: Math.max(0, Math.min(last(), query)) });
  const which = choice({ label: "Example", name: "sentence",
    options: sentences.map((_, i) => [i, String(i + 1)]),
    input: (i) => put(model, { prompt: "", sentence: i, query: sentences[i].length - 1 }) });
  const back = button("◀ Back", () => go(at() - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(at() + 1), { "data-name": "next" });
  const field = h("input", { type: "text", maxlength: 160, style: FIELD, "data-name": "prompt",
    "aria-label": "Your text", placeholder: "Type a text; say something twice in it",
    oninput: () => put(model, { prompt: field.value, query: LONGEST - 1 }) });
  const off = button("Switch this head off", () => put(model, { off: !get("off") }), { "data-name": "off" });
  const reach = slider({ label: "A token sees", name: "window", min: 0, max: WINDOWS.length - 1, step: 1,
    show: (i) => (WINDOWS[i] ? `the last ${WINDOWS[i]}` : "all before it"),
    input: (i) => put(model, { window: WINDOWS[i] }) });
  const first = button("and the first", () => put(model, { first: !get("first") }), { "data-name": "first" });
  if (canRead) ui.controls.append(field);
  ui.controls.append(which.node, h("div", { class: "walk" }, back, next));
  if (canRead) ui.controls.append(reach.node, h("div", { class: "walk" }, first, off));

  const grid = h("div", { role: "group", "aria-label": "Heads",
    style: "display:grid;gap:6px;margin:0 0 .8rem" });
  const picks = [];
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      const node = h("button", { type: "button", "data-layer": layer, "data-head": head,
        style: "padding:5px 3px;white-space:normal;line-height:1.2;font-size:12px;min-width:0",
        onclick: () => put(model, { layer, head }) });
      picks.push({ layer, head, node });
    }
  }
  grid.append(...picks.map((one) => one.node));
  ui.controls.after(grid);
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "Tokens, the query framed" });
  ui.body.after(strip);
  const note = h("p", { class: "note" });
  ui.readout.after(note);

  function draw() {
    if (!width) return;
    const layer = get("layer"), head = get("head"), { tokens, weights } = shown();
    const w = weights[layer][head], query = at(), row = w[query];
    which.set(live && get("prompt") ? -1 : get("sentence"));
    if (document.activeElement !== field) field.value = get("prompt");
    reach.set(WINDOWS.indexOf(get("window")));
    for (const [node, name] of [[off, "off"], [first, "first"]]) node.setAttribute("aria-pressed", String(get(name)));
    first.disabled = !get("window");
    back.disabled = query === 0;
    next.disabled = query === tokens.length - 1;
    const columns = width < 260 ? 2 : width < 480 ? Math.min(heads, 4) : Math.min(heads * layers, 8);
    grid.style.gridTemplateColumns = `repeat(${columns},minmax(0,1fr))`;
    for (const one of picks) {
      const found = describe(weights[one.layer][one.head], tokens);
      const mine = one.layer === layer && one.head === head;
      one.node.setAttribute("aria-current", String(mine));
      one.node.dataset.label = found.label;
      one.node.replaceChildren(h("span", {}, `layer ${one.layer + 1}, head ${one.head + 1}`),
        thumbnail(weights[one.layer][one.head]), h("span", {}, mine && get("off") && live ? "switched off" : found.label));
    }
    ui.body.replaceChildren(bigMap(w, tokens, query, width, go));
    const focused = strip.contains(document.activeElement);
    const shade = (v) => Math.round(45 * Math.min(1, 1.3 * v));
    strip.replaceChildren(...tokens.map((token, j) => h("button", { type: "button", class: "token",
      "data-j": j, "data-value": row[j], onclick: () => go(j),
      "aria-label": `${token}, weight ${two(row[j])}`,
      style: `background:color-mix(in srgb, var(--blue) ${shade(row[j])}%, var(--paper));`
        + (j === query ? "outline:2px solid var(--orange);outline-offset:-1px" : "") }, token)));
    if (focused) strip.children[query].focus();
    const found = describe(w, tokens);
    const top = row.map((v, j) => [v, j]).sort((a, b) => b[0] - a[0]).slice(0, 3)
      .filter(([v]) => v >= 0.05);
    const { score, entropy, label } = found, n = tokens.length;
    Object.assign(ui.readout.dataset, { score, entropy, label, live: live ? 1 : "",
      before: live ? live.before : "", now: live ? live.now : "" });
    const changed = live && (get("off") || get("window"));
    ui.say(`Layer ${layer + 1}, head ${head + 1}: <b>${label}</b>, score <b>${two(score)}</b>, `
      + `entropy <b>${two(entropy)}</b> nats (${n} tokens: at most ${two(Math.log(n))}). `
      + `“${safe(tokens[query])}” (token ${query + 1}) looks at ${top.map(([v, j]) =>
        `“${safe(tokens[j])}” (${j + 1}) ${two(v)}`).join(", ") || "everything a little"}.`
      + (live ? ` The text costs <b>${two(live.before)}</b> bits a token`
        + (changed ? `, as changed <b>${two(live.now)}</b>.` : ".") : ""));
    note.textContent = trouble + (live && live.cut ? `Only the first ${LONGEST} tokens are read. ` : "")
      + PATTERNS.map((name, i) => `${name} ${two(found.scores[i])}`).join(" · ");
  }
  const read = makeReader(model, (found) => { live = found; trouble = ""; draw(); },
    (error) => { live = null; trouble = `The model cannot run here: ${error.message}. `; draw(); });
  const again = ["prompt", "sentence", "window", "first", "off"];
  // Where a head is off, another choice of a head is another change of the model.
  const moved = () => { if (get("off")) read(); };
  for (const name of again) model.on(`change:${name}`, read);
  for (const name of ["layer", "head"]) model.on(`change:${name}`, moved);
  const clean = redraw(model, ui.body, ["sentence", "layer", "head", "query", ...again], (now) => { width = now; draw(); });
  if (canRead) read();
  return () => {
    for (const name of again) model.off(`change:${name}`, read);
    for (const name of ["layer", "head"]) model.off(`change:${name}`, moved);
    clean();
  };
}

export default { render };
