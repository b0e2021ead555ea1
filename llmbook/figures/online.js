const FLOAT16 = 65504;
const two = fixed(2);

// The numbers of a text, or null where it holds none, too many or too large ones.
function numbersOf(text) {
  const words = text.replaceAll(",", " ").split(/\s+/).filter(Boolean), found = words.map(Number);
  return found.length >= 2 && found.length <= 16 && found.every((x) => Math.abs(x) <= 999) ? found : null;
}

// After each block: the maximum before and now, fade, l. Without the maximum, in float16's range.
function walk(scores, block, subtract) {
  const steps = [], held = (x) => (x > FLOAT16 ? Infinity : x);
  let m = subtract ? -Infinity : 0, l = 0;
  for (let i = 0; i < scores.length; i += block) {
    const seen = scores.slice(i, i + block), before = m;
    if (subtract) m = Math.max(m, ...seen);
    const fade = Math.exp(before - m), e = seen.map((x) => Math.exp(x - m));
    l = fade * l + e.reduce((a, b) => a + b, 0);
    if (!subtract) l = held(e.some((x) => x > FLOAT16) ? Infinity : l);
    steps.push({ before, m, fade, l, seen });
  }
  return steps;
}

// A bar for each score: what it adds to l now; those to come stand empty.
function bars(width, scores, now, arrived, subtract) {
  const left = 6, cell = (width - 2 * left) / scores.length, top = 26, high = 130;
  const svg = s("svg", { viewBox: `0 0 ${width} 218`, height: 218, "aria-hidden": "true" },
    s("text", { x: 2, y: 14 }, subtract ? "what each score adds to l: e to the s − m" : "e to the s, as float16 holds it"),
    s("path", { class: "axis", d: `M${left} ${top + high}H${width - left}` }));
  const add = scores.map((x) => Math.exp(x - (subtract ? now?.m ?? 0 : 0)));
  const most = subtract ? 1 : Math.max(...add.slice(0, arrived).filter((v) => v <= FLOAT16), 1);
  const texts = scores.map((x) => String(x).replace("-", "−"));
  const every = Math.ceil(Math.max(...texts.map((one) => one.length)) * 9 / cell); // none where there is no room: they stand in the field
  scores.forEach((x, i) => {
    const here = i < arrived, over = here && !subtract && add[i] > FLOAT16, mid = left + (i + 0.5) * cell;
    const tall = here ? Math.max(1, Math.min(1, add[i] / most) * high) : 0;
    const fresh = here && i >= arrived - now.seen.length;
    svg.append(s("rect", { class: "bar", x: (mid - 0.36 * cell).toFixed(2), y: (top + high - tall).toFixed(2),
      width: (0.72 * cell).toFixed(2), height: tall.toFixed(2), rx: 2, fill: `var(--${over ? "orange" : fresh ? "blue" : "soft"})`,
      "data-adds": here ? add[i] : 0 }),
    every > 1 ? "" : s("text", { x: mid, y: top + high + 18, "text-anchor": "middle", class: here ? "" : "soft",
      style: fresh ? "font-weight:700" : "" }, texts[i]));
    if (over) svg.append(s("text", { x: mid, y: top + 12, "text-anchor": "middle" }, "∞"));
  });
  svg.append(s("text", { class: "soft", x: left, y: 210 }, "scores, as they arrive →"));
  return svg;
}

function render({ model, el }) {
  const ui = frame(model, el, "A softmax that never sees the whole row");
  const get = (name) => model.get(name);
  const scores = () => numbersOf(get("scores")) ?? [0, 0];
  const count = () => Math.ceil(scores().length / get("block"));
  const go = (to) => put(model, { step: Math.max(0, Math.min(count(), to)) });
  const note = h("p", { class: "note" });
  const node = h("input", { type: "text", maxlength: 90, "data-name": "scores",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:7px",
    oninput: () => {
      const found = numbersOf(node.value);
      note.textContent = found ? "" : "Two to sixteen numbers from −999 to 999, please, with spaces between them.";
      if (found) put(model, { scores: node.value, step: Math.min(get("step"), Math.ceil(found.length / get("block"))) });
    } });
  const block = choice({ label: "Arrive at once", name: "block", options: [1, 2, 4].map((b) => [b, String(b)]),
    input: (b) => put(model, { block: b, step: Math.min(get("step"), Math.ceil(scores().length / b)) }) });
  const subtract = choice({ label: "Subtract", name: "subtract", input: (on) => put(model, { subtract: on }),
    options: [[true, "the largest so far"], [false, "nothing"]] });
  const back = button("◀ Back", () => go(get("step") - 1), { "data-name": "back" });
  const next = button("Next block ▶", () => go(get("step") + 1), { "data-name": "next" });
  const place = slider({ label: "Blocks arrived", name: "step", min: 0, max: 16, step: 1, input: go,
    show: (t) => `${t} of ${count()}` });
  ui.controls.append(h("label", { style: "flex:1 1 100%" }, h("span", {}, "Your scores"), node), block.node, subtract.node,
    h("div", { class: "walk" }, back, next), place.node);
  ui.root.append(note);

  function draw(width) {
    const all = scores(), b = get("block"), on = get("subtract"), steps = walk(all, b, on);
    const done = Math.min(get("step"), steps.length), now = steps[done - 1];
    if (document.activeElement !== node) node.value = get("scores");
    block.set(b);
    subtract.set(on);
    place.range.max = steps.length;
    place.set(done);
    back.disabled = done === 0;
    next.disabled = done === steps.length;
    ui.body.replaceChildren(bars(width, all, now, Math.min(done * b, all.length), on));
    Object.assign(ui.readout.dataset, { m: now?.m ?? 0, fade: now?.fade ?? 1, l: now?.l ?? 0, blocks: steps.length });
    if (!now) { ui.say("Nothing has arrived. Two numbers will be kept: the largest score so far, m, and the sum l."); return; }
    const grew = on && done > 1 && now.m > now.before, ended = done === steps.length;
    const weights = ended ? all.map((x) => Math.exp(x - now.m) / now.l).map((p) => (Number.isFinite(p) ? p.toFixed(3) : "NaN")) : [];
    ui.say((on ? `m = <b>${two(now.m)}</b>. ` + (grew ? `It grew: the old sum is multiplied by fade = e to the ${two(now.before)} − ${
      two(now.m)} = <b>${now.fade.toPrecision(3)}</b>. ` : done > 1 ? "It did not grow: fade = 1, just add. " : "")
      : "Nothing is subtracted. ") + `l = <b>${Number.isFinite(now.l) ? now.l.toPrecision(4) : "∞"}</b>.`
      + (ended ? ` Weights: ${!on && !Number.isFinite(now.l) ? "0 or NaN, for l is infinite" : weights.join(", ")}.` : ""));
  }
  return redraw(model, ui.body, ["scores", "block", "step", "subtract"], draw);
}

export default { render };
