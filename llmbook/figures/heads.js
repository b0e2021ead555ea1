const PATTERNS = ["previous token", "first token", "same token", "after an earlier copy"];
const CLEAR = 0.4;
const two = fixed(2);
const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
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

function render({ model, el }) {
  const ui = frame(model, el, "What each head looks at");
  const get = (name) => model.get(name);
  const sentences = get("sentences"), all = get("weights");
  const layers = all[0].length, heads = all[0][0].length;
  const last = () => sentences[get("sentence")].length - 1;
  const go = (query) => put(model, { query: Math.max(0, Math.min(last(), query)) });
  const which = choice({ label: "Sentence", name: "sentence",
    options: sentences.map((_, i) => [i, String(i + 1)]),
    input: (i) => put(model, { sentence: i, query: sentences[i].length - 1 }) });
  const back = button("◀ Back", () => go(get("query") - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(get("query") + 1), { "data-name": "next" });
  ui.controls.append(which.node, h("div", { class: "walk" }, back, next));

  const grid = h("div", { role: "group", "aria-label": "Heads",
    style: "display:grid;gap:6px;margin:0 0 .8rem" });
  const picks = [];
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      const node = h("button", { type: "button", "data-layer": layer, "data-head": head,
        style: "padding:5px 3px;white-space:normal;line-height:1.25;font-size:13px;min-width:0",
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

  function draw(width) {
    const index = get("sentence"), layer = get("layer"), head = get("head");
    const tokens = sentences[index], w = all[index][layer][head];
    const query = Math.min(get("query"), tokens.length - 1), row = w[query];
    which.set(index);
    back.disabled = query === 0;
    next.disabled = query === tokens.length - 1;
    const columns = Math.min(heads, width < 300 ? 2 : width < 480 ? 4 : 8);
    grid.style.gridTemplateColumns = `repeat(${columns},minmax(0,1fr))`;
    for (const one of picks) {
      const found = describe(all[index][one.layer][one.head], tokens);
      one.node.setAttribute("aria-current", String(one.layer === layer && one.head === head));
      one.node.dataset.label = found.label;
      one.node.replaceChildren(h("span", {}, `layer ${one.layer + 1}, head ${one.head + 1}`),
        thumbnail(all[index][one.layer][one.head]), h("span", {}, found.label));
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
    Object.assign(ui.readout.dataset, { score, entropy, label });
    ui.say(`Layer ${layer + 1}, head ${head + 1}: <b>${label}</b>, score <b>${two(score)}</b>, `
      + `entropy <b>${two(entropy)}</b> nats (${n} tokens: at most ${two(Math.log(n))}). `
      + `“${safe(tokens[query])}” (token ${query + 1}) looks at ${top.map(([v, j]) =>
        `“${safe(tokens[j])}” (${j + 1}) ${two(v)}`).join(", ") || "everything a little"}.`);
    note.textContent = PATTERNS.map((name, i) => `${name} ${two(found.scores[i])}`).join(" · ");
  }
  return redraw(model, ui.body, ["sentence", "layer", "head", "query"], draw);
}

export default { render };
