const SHADES = ["blue", "orange", "green", "purple"];
const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

// Byte → printable stand-in, as tokenizer_json.py has it, and back.
const STAND_IN = (() => {
  const prints = (b) => (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
  const back = new Map();
  let hidden = 0;
  for (let b = 0; b < 256; b++) back.set(String.fromCodePoint(prints(b) ? b : 0x100 + hidden++), b);
  return back;
})();

// A token as a reader sees it: text where it is whole characters, else its bytes.
function visible(token) {
  const bytes = Uint8Array.from([...token].map((c) => STAND_IN.get(c)));
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  } catch {
    return [...bytes].map((b) => b.toString(16).toUpperCase().padStart(2, "0")).join("·");
  }
}

function apply(words, [a, b]) {
  return words.map((word) => {
    const out = [];
    for (let i = 0; i < word.length; i++) {
      if (i + 1 < word.length && word[i] === a && word[i + 1] === b) { out.push(a + b); i += 1; }
      else out.push(word[i]);
    }
    return out;
  });
}

// Pairs by count; of equals the one whose tokens are older: the byte alphabet's order, then merges.
function ranking(words, merges) {
  const counts = new Map(), age = new Map();
  merges.forEach(([a, b], i) => { if (!age.has(a + b)) age.set(a + b, 0x10000 + i); });
  const id = (token) => ([...token].length === 1 ? token.codePointAt(0) : age.get(token));
  for (const word of words) {
    for (let i = 0; i + 1 < word.length; i++) {
      const key = word[i] + "\u0000" + word[i + 1];
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  return [...counts].map(([key, count]) => [...key.split("\u0000"), count])
    .sort((p, q) => q[2] - p[2] || id(p[0]) - id(q[0]) || id(p[1]) - id(q[1]));
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "Byte-pair encoding, merge by merge");
  const merges = () => get("merges")[get("text")];
  let timer;
  const stop = () => { clearInterval(timer); timer = undefined; play.textContent = "▶ Play"; };
  const go = (step) => put(model, { step: Math.max(0, Math.min(merges().length, step)) });
  const which = choice({ label: "Text", name: "text", options: get("labels").map((one, i) => [i, one]),
    input: (i) => { stop(); put(model, { step: 0, text: i }); } });
  const back = button("◀ Back", () => { stop(); go(get("step") - 1); }, { "data-name": "back" });
  const next = button("Merge ▶", () => { stop(); go(get("step") + 1); }, { "data-name": "next" });
  const play = button("▶ Play", () => {
    if (timer !== undefined) return stop();
    if (get("step") >= merges().length) go(0);
    play.textContent = "❚❚ Stop";
    timer = setInterval(() => {
      go(get("step") + 1);
      if (get("step") >= merges().length) stop();
    }, 500);
  }, { "data-name": "play" });
  const bar = slider({ label: "Merges", name: "step", min: 0, max: merges().length, step: 1,
    input: (k) => { stop(); go(k); } });
  ui.controls.append(which.node, bar.node, h("div", { class: "walk" }, back, next, play));

  const words = h("div", { class: "pieces", role: "img",
    style: "display:flex;flex-wrap:wrap;gap:6px 7px;margin:.2rem 0 .8rem;min-height:9rem;"
      + "align-content:flex-start" });
  const lower = h("div", { style: "display:flex;flex-wrap:wrap;gap:.4rem 1.6rem" });
  const table = h("div", { style: "flex:1 1 12rem;min-width:0" });
  const plot = h("div", { style: "flex:2 1 17rem;min-width:0" });
  lower.append(table, plot);
  ui.body.append(words, lower);

  function draw(width) {
    const all = merges(), step = Math.min(get("step"), all.length);
    let now = get("pieces")[get("text")].map((piece) => [...piece]);
    const sizes = [now.reduce((sum, word) => sum + word.length, 0)], bytes = sizes[0];
    let shown = now;
    all.forEach((one, k) => {
      now = apply(now, one);
      sizes.push(now.reduce((sum, word) => sum + word.length, 0));
      if (k + 1 === step) shown = now;
    });
    which.set(get("text"));
    bar.range.max = all.length;
    bar.set(step);
    back.disabled = step === 0;
    next.disabled = step === all.length;
    const last = step ? all[step - 1][0] + all[step - 1][1] : null;
    const order = new Map();  // a token keeps its colour from the merge that made it
    all.forEach(([a, b], i) => { if (!order.has(a + b)) order.set(a + b, i); });
    words.setAttribute("aria-label", `The text in ${sizes[step]} tokens`);
    words.replaceChildren(...shown.map((word) => h("span", { class: "piece",
      style: "display:inline-flex;flex-wrap:wrap;gap:1px;min-width:0" }, word.map((token) => {
      const made = order.has(token) ? SHADES[order.get(token) % 4] : null;
      return h("span", { class: "part", "data-token": token, style: "padding:1px 4px;"
        + "border-radius:4px;white-space:pre;overflow-wrap:anywhere;"
        + `background:${made ? `color-mix(in srgb, var(--${made}) 24%, var(--paper))` : "var(--well)"};`
        + `outline:${token === last ? "2px solid var(--orange)" : "1px solid var(--line)"}`
        + ";outline-offset:-1px" }, visible(token));
    }))));

    const pairs = ranking(shown, all.slice(0, step)).slice(0, 5);
    const most = pairs.length ? pairs[0][2] : 1;
    table.replaceChildren(h("p", { style: "margin:0 0 4px" }, "Most frequent pairs now"),
      ...pairs.map(([a, b, count], i) => h("div", { class: "pair", "data-a": a, "data-b": b,
        "data-count": count, style: "display:grid;grid-template-columns:7.5em 2.2em 1fr;gap:6px;"
          + "align-items:center" + (i ? "" : ";font-weight:650") },
      h("span", { style: "white-space:pre;overflow:hidden;text-overflow:ellipsis" },
        `${visible(a)} + ${visible(b)}`),
      h("span", { style: "text-align:right" }, String(count)),
      h("span", { style: `height:9px;border-radius:4px;width:${100 * count / most}%;`
        + `background:var(--${i ? "line" : "orange"})` }))));

    const wide = width < 480 ? width : width * 0.6 - 20;
    const c = chart({ width: wide, height: 190, x: [0, all.length], y: [0, bytes * 1.02],
      xlabel: "merges", ylabel: "tokens in this text" });
    c.area.append(line(c, sizes.map((n, k) => [k, n]), { stroke: "var(--blue)" }),
      s("circle", { class: "now", cx: c.px(step), cy: c.py(sizes[step]), r: 5,
        fill: "var(--orange)" }));
    plot.replaceChildren(c.svg);

    const made = step ? all[step - 1] : null;
    Object.assign(ui.readout.dataset, { tokens: sizes[step], vocabulary: 256 + step });
    ui.say((made ? `Merge ${step}: “${safe(visible(made[0]))}” + “${safe(visible(made[1]))}” → `
      + `<b>“${safe(visible(last))}”</b>, seen ${made[2]} times. ` : "No merge yet: bytes. ")
      + `Vocabulary 256 + ${step}. The text of ${bytes} bytes takes <b>${sizes[step]} tokens</b>, `
      + `${(bytes / sizes[step]).toFixed(2)} bytes each.`);
  }
  const clean = redraw(model, ui.body, ["text", "step"], draw);
  return () => { stop(); clean(); };
}

export default { render };
