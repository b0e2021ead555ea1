const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE = Object.fromEntries([...ALPHABET].map((letter, i) => [letter, i]));
const SHOWN = 12; // bars
const percent = (p) => (p >= 0.0995 ? `${fixed(0)(100 * p)}%` : p >= 0.00095 ? `${fixed(1)(100 * p)}%`
  : p > 0 ? "<0.1%" : "0%");
const bits = fixed(2);
const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
// A token as it can be seen: blanks and line ends have a sign.
const visible = (token) => (/^ [^ \n]+$/.test(token) ? "␣" + token.slice(1)
  : token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥"));

function unpacked(text) { // log-probabilities, in nats, summing to 1
  const out = new Array(text.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = -0.005 * (64 * VALUE[text[2 * i]] + VALUE[text[2 * i + 1]]);
  const total = Math.log(out.reduce((sum, v) => sum + Math.exp(v), 0));
  return out.map((v) => v - total);
}

// Softmax at a temperature, cut by top-k and top-p; tokens in order of probability.
function cutTo(logP, temperature, topK, topP) {
  const top = logP.reduce((a, b) => Math.max(a, b));
  let p = logP.map((v) => Math.exp((v - top) / temperature));
  const scale = (sum) => { p = p.map((v) => v / sum); };
  scale(p.reduce((a, b) => a + b));
  const order = p.map((v, i) => i).sort((a, b) => p[b] - p[a] || a - b);
  const sum = () => order.reduce((t, i) => t + p[i], 0);
  if (topK) {
    for (const i of order.slice(topK)) p[i] = 0;
    scale(sum());
  }
  if (topP < 1) {
    let before = 0;
    for (const i of order) {
      const mine = p[i];
      if (before >= topP) p[i] = 0;
      before += mine;
    }
    scale(sum());
  }
  return { p, order };
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

function render({ model, el }) {
  const ui = frame(model, el, "What comes next?");
  const get = (name) => model.get(name), texts = get("texts"), ids = get("ids");
  const vocabulary = get("vocabulary");
  const logs = get("packed").map((rows) => rows.map(unpacked));
  let drawn = null, tally = 0, hits = 0;
  const forget = () => { drawn = null; tally = 0; hits = 0; };
  const last = () => texts[get("text")].length - 1;
  const at = () => Math.min(get("place"), last()); // the text may just have changed
  const go = (place) => { forget(); put(model, { place: Math.max(0, Math.min(last(), place)) }); };
  const which = choice({ label: "Text", name: "text", options: texts.map((_, i) => [i, String(i + 1)]),
    input: (i) => { forget(); put(model, { text: i, place: texts[i].length - 1 }); } });
  const back = button("◀ Back", () => go(at() - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(at() + 1), { "data-name": "next" });
  const setter = (name) => (v) => { forget(); put(model, { [name]: v }); };
  const warm = slider({ label: "Temperature", name: "temperature", min: 0.1, max: 2, step: 0.05,
    show: fixed(2), input: setter("temperature") });
  // Slider positions 0 … 20 stand for 1 … 100 tokens and, at the end, for all of them.
  const STOPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 0];
  const most = slider({ label: "Top-k", name: "top_k", min: 0, max: STOPS.length - 1, step: 1,
    show: (i) => (STOPS[i] ? `${STOPS[i]}` : "all"), input: (i) => setter("top_k")(STOPS[i]) });
  const mass = slider({ label: "Top-p", name: "top_p", min: 0.05, max: 1, step: 0.05, show: fixed(2),
    input: setter("top_p") });
  const draw_ = button("Draw a token", () => {
    const { p, order } = present();
    let left = Math.random(), pick = order[0];
    for (const i of order) {
      if (p[i] === 0) break;
      pick = i;
      left -= p[i];
      if (left < 0) break;
    }
    drawn = pick;
    tally += 1;
    hits += pick === came() ? 1 : 0;
    show();
  }, { "data-name": "draw" });
  ui.controls.append(which.node, h("div", { class: "walk" }, back, next));
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "Tokens, shaded by surprise",
    style: "row-gap:4px" });
  ui.controls.after(strip);
  strip.after(h("div", { class: "controls" }, warm.node, most.node, mass.node),
    h("div", { class: "walk", style: "margin-bottom:.5rem" }, draw_));
  const note = h("p", { class: "note" }, "Filled bars: what is drawn from. Dashed: what the model said "
    + "before temperature and cuts. Shade of a token: its surprise.");
  ui.readout.after(note);

  const came = () => ids[get("text")][at() + 1] ?? null;
  const present = () => cutTo(logs[get("text")][at()], get("temperature"), get("top_k"),
    get("top_p"));
  const surprise = (t, place) => -logs[t][place - 1][ids[t][place]] / Math.LN2;
  let width = 0;

  function show() {
    const t = get("text"), place = at(), { p, order } = present();
    const raw = logs[t][place];
    which.set(t);
    warm.set(get("temperature"));
    const stop = STOPS.findIndex((n) => n === get("top_k"));
    most.set(stop >= 0 ? stop : STOPS.findIndex((n) => n === 0 || n >= get("top_k")));
    mass.set(get("top_p"));
    back.disabled = place === 0;
    next.disabled = place === last();
    const focused = strip.contains(document.activeElement);
    strip.replaceChildren(...texts[t].map((token, i) => {
      const bitsOf = i ? surprise(t, i) : 0;
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
    const kept = p.filter((v) => v > 0), entropy = -kept.reduce((a, v) => a + v * Math.log2(v), 0);
    Object.assign(ui.readout.dataset, { entropy, kept: kept.length, best: order[0],
      surprise: answer === null ? "" : surprise(t, place + 1), drawn: drawn ?? "" });
    const quote = (id) => `“${safe(visible(vocabulary[id]))}”`;
    ui.say(`After “${safe(visible(texts[t][place]))}” the model expects <b>${quote(order[0])}</b> most. `
      + `Entropy <b>${bits(Math.max(0, entropy))}</b> bits, as of ${format(2 ** entropy)} equal choices; `
      + `${kept.length} of ${vocabulary.length} tokens left. `
      + (answer === null ? "The text ends here. "
        : `What came: ${quote(answer)}, surprise <b>${bits(surprise(t, place + 1))}</b> bits. `)
      + (drawn === null ? "" : `Drawn: <b>${quote(drawn)}</b> (draw ${tally}`
        + (answer === null ? ")." : `; the text’s own token ${hits} times).`)));
  }
  return redraw(model, ui.body, ["text", "place", "temperature", "top_k", "top_p"], (w) => {
    width = w;
    show();
  });
}

export default { render };
