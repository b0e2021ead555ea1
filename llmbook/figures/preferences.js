const RATE = 4, DECAY = 0.02, MOST = 200;

// Every pair once, in an order in which neighbours share no text where they can.
function pairs(n) {
  const all = [];
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) all.push([i, j]);
  let stride = Math.max(1, Math.round(all.length * 0.382));
  const gcd = (a, b) => (b ? gcd(b, a % b) : a);
  while (gcd(stride, all.length) !== 1) stride += 1;
  return all.map((_, k) => all[(k * stride) % all.length]);
}

// Gradient descent on the mean of −log σ(s_winner − s_loser), with a pull to 0.
function fit(n, labels, steps) {
  let scores = Array(n).fill(0);
  for (let step = 0; step < steps && labels.length; step++) {
    const slope = scores.map((v) => DECAY * v);
    for (const [a, b] of labels) {
      const left = (1 - 1 / (1 + Math.exp(scores[b] - scores[a]))) / labels.length;
      slope[a] -= left;
      slope[b] += left;
    }
    scores = scores.map((v, i) => v - RATE * slope[i]);
  }
  return scores;
}

// The simulated labeller's dice: a number in [0, 1) for a place, the same every time.
function dice(place) {
  let v = (place + 1) * 2654435761 >>> 0;
  v = Math.imul(v ^ (v >>> 16), 2246822507) >>> 0;
  v = Math.imul(v ^ (v >>> 13), 3266489909) >>> 0;
  return ((v ^ (v >>> 16)) >>> 0) / 4294967296;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "Which answer do you prefer?");
  const items = get("items"), n = items.length, order = pairs(n);
  const now = () => order[get("place") % order.length];
  const next = (won) => {
    const labels = won ? [...get("labels"), won] : get("labels");
    put(model, { labels, place: get("place") + 1 });
  };
  const pick = (side) => { const p = now(); next(side ? [p[1], p[0]] : [p[0], p[1]]); };
  const card = (side) => button("", () => pick(side), { class: "option", "data-side": side,
    style: "flex:1 1 220px;min-height:64px;text-align:left;white-space:normal;line-height:1.35" });
  const cards = [card(0), card(1)];
  const ask = (count) => {
    let { labels, place } = { labels: [...get("labels")], place: get("place") };
    const likes = get("utility");
    for (let k = 0; k < count; k++, place++) {
      const [a, b] = order[place % order.length];
      const p = 1 / (1 + Math.exp(likes[b] - likes[a]));
      labels.push(dice(place) < p ? [a, b] : [b, a]);
    }
    put(model, { labels, place });
  };
  const steps = slider({ label: "Steps of training", name: "steps", min: 0, max: MOST, step: 1,
    input: (v) => put(model, { steps: v }) });
  ui.controls.append(h("div", { style: "display:flex;gap:10px;flex-wrap:wrap;flex:1 1 100%" }, cards),
    h("div", { style: "display:flex;gap:8px;flex-wrap:wrap;flex:1 1 100%" },
      button("As good as each other", () => next(null), { "data-do": "tie" }),
      button("Ask a simulated labeller, 14 pairs", () => ask(14), { "data-do": "ask" }),
      button("Start over", () => put(model, { labels: [], place: 0 }), { "data-do": "clear" })),
    steps.node);

  function draw(width) {
    const labels = get("labels"), [a, b] = now();
    cards[0].textContent = items[a];
    cards[1].textContent = items[b];
    steps.set(get("steps"));
    const scores = fit(n, labels, get("steps"));
    const rank = scores.map((v, i) => [v, i]).sort((x, y) => y[0] - x[0] || x[1] - y[1]);
    const most = Math.max(1, ...scores.map(Math.abs));
    const row = 40, height = n * row + 8, middle = width / 2, reach = width / 2 - 64;
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": "Scores learned, best first" });
    const letters = Math.floor(width / 7.4);
    rank.forEach(([v, i], place) => {
      const y = place * row + 6, w = Math.abs(v) / most * reach;
      const text = items[i].length > letters ? items[i].slice(0, letters - 1) + "…" : items[i];
      svg.append(s("text", { class: "soft", x: 2, y: y + 11 }, text),
        s("rect", { class: "score", "data-item": i, "data-score": v.toFixed(4),
          x: v < 0 ? middle - w : middle, y: y + 17, width: w, height: 12, rx: 2,
          fill: `color-mix(in srgb, var(--${v < 0 ? "orange" : "blue"}) 45%, var(--paper))`,
          stroke: `var(--${v < 0 ? "orange" : "blue"})` }),
        s("line", { class: "axis", x1: middle, x2: middle, y1: y + 14, y2: y + 32 }),
        s("text", { x: v < 0 ? middle - w - 6 : middle + w + 6, y: y + 28,
          "text-anchor": v < 0 ? "end" : "start" }, fixed(2)(v)));
    });
    ui.body.replaceChildren(svg);
    const right = labels.filter(([w, l]) => scores[w] > scores[l]).length;
    const p = 1 / (1 + Math.exp(scores[b] - scores[a]));
    ui.readout.dataset.right = right;
    ui.say(labels.length
      ? `<b>${labels.length}</b> comparisons, <b>${right}</b> of them in the order of the scores. For the `
        + `pair above the model says: the first is preferred with <b>${(100 * p).toFixed(0)}%</b>.`
      : "No comparison yet: choose the answer above that you prefer. All scores are 0.");
  }
  return redraw(model, ui.body, ["labels", "place", "steps"], draw);
}

export default { render };
