const KINDS = ["encoder", "decoder", "encoder–decoder"];
const quote = (text) => `“${text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}”`;

const shown = (word) => ([...word].length > 9 ? [...word].slice(0, 8).join("") + "…" : word);

// May column i read column j? As family_mask in families.py; n: tokens, or tokens of the source.
function reads(kind, n, i, j) {
  if (kind === "encoder") return true;
  if (kind === "decoder") return j <= i;
  return j < n || (i >= n && j <= i);
}

// The three inputs that a text makes, as inputs_of in families.py.
function inputsOf(text) {
  const words = text.split(/\s+/).filter(Boolean).slice(0, 7);
  const start = Math.floor((words.length - 1) / 2);
  return { tokens: words, source: [...words.slice(0, start), "⟨1⟩", ...words.slice(start + 2)],
    target: ["⟨s⟩", "⟨1⟩", ...words.slice(start, start + 2)] };
}

// The columns that a token draws on, 0, 1, 2 … layers below.
function cone(kind, n, count, i, steps) {
  const out = [[i]];
  for (let step = 0; step < steps; step++) {
    out.push([...Array(count).keys()].filter((j) => out[step].some((k) => reads(kind, n, k, j))));
  }
  return out;
}

function streams(panel, width, levels, layer, pick) {
  const { kind, words, n, chosen } = panel;
  const count = words.length, gap = kind === KINDS[2] ? 10 : 0, rise = 44;
  const longest = Math.max(...words.map((word) => shown(word).length));
  const steep = longest * 7.6 + 3 > (width - gap - 8) / count;
  const left = steep ? Math.max(4, 4 * longest - 8) : 4;
  const pitch = (width - gap - left - 4) / count;
  const px = (j) => left + pitch * (j + 0.5) + (gap && j >= n ? gap : 0);
  const base = 14 + rise * levels;
  const py = (level) => base - rise * level;
  const tall = base + (steep ? 16 + longest * 6.4 : 30);
  const svg = s("svg", { viewBox: `0 0 ${width} ${tall}`, "data-kind": kind,
    style: `max-width:${width}px` });
  const below = cone(kind, n, count, chosen, layer);
  const across = (j) => kind === KINDS[2] && chosen >= n && j < n;
  const lit = (j, level) => across(j) || (level <= layer && below[layer - level].includes(j));
  for (let j = 0; j < count; j++) {
    svg.append(s("line", { x1: px(j), x2: px(j), y1: py(0), y2: py(levels), "stroke-width": 3,
      stroke: j === chosen ? "var(--orange)" : "var(--line)" }));
  }
  for (let j = 0; j < count; j++) {
    if (!reads(kind, n, chosen, j)) continue;
    const cross = across(j);
    const from = cross ? levels : layer - 1;
    svg.append(s("path", { class: "edge", "data-from": j, "data-level": from, fill: "none",
      d: `M${px(j)} ${py(from)}Q${(px(j) + px(chosen)) / 2} ${py((from + layer) / 2) - (cross ? (layer === levels ? 22 : 8) : 0)} `
        + `${px(chosen)} ${py(layer)}`,
      stroke: cross ? "var(--purple)" : "var(--blue)", "stroke-width": 1.8,
      "stroke-dasharray": cross ? "5 3" : undefined }));
  }
  for (let j = 0; j < count; j++) {
    for (let level = 0; level <= levels; level++) {
      const here = j === chosen && level === layer;
      const direct = lit(j, level) && level === (across(j) ? levels : layer - 1);
      svg.append(s("circle", { cx: px(j), cy: py(level), r: here ? 7 : 4.5, "stroke-width": 1.4,
        fill: here ? "var(--orange)" : direct ? "var(--blue)" : "var(--paper)",
        stroke: lit(j, level) ? "var(--blue)" : "var(--line)" }));
    }
    const turn = steep ? { transform: `rotate(-60 ${px(j)} ${base + 16})`, "text-anchor": "end" }
      : { "text-anchor": "middle" };
    svg.append(s("text", { x: px(j), y: base + (steep ? 16 : 24), ...turn,
      style: j === chosen ? "font-weight:700" : "" }, shown(words[j])));
    svg.append(s("rect", { x: px(j) - pitch / 2, y: 0, width: pitch, height: tall, rx: 4,
      fill: "transparent", class: "column", "data-j": j,
      tabindex: j === chosen ? 0 : -1, role: "button",
      "aria-label": `${kind}: ${words[j]}, token ${j + 1}`, style: "cursor:pointer",
      onclick: () => pick(j),
      // not pointerenter: a column redrawn under a mouse at rest would take the choice back
      onpointermove: (event) => { if (event.pointerType === "mouse") pick(j); },
      onkeydown: (event) => {
        const to = { Enter: j, " ": j, ArrowLeft: j - 1, ArrowRight: j + 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        pick(Math.max(0, Math.min(count - 1, to)));
      } }));
  }
  return svg;
}

function mask({ kind, words, n, chosen }, width) {
  const count = words.length, cell = Math.min(14, (width - 4) / count), side = cell * count;
  const svg = s("svg", { viewBox: `0 0 ${width} ${side + 4}`, "aria-hidden": "true",
    class: "mask", style: `max-width:${width}px` });
  const left = (width - side) / 2;
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      const on = reads(kind, n, i, j), cross = kind === KINDS[2] && i >= n && j < n;
      svg.append(s("rect", { x: left + j * cell, y: 2 + i * cell, width: cell - 1, height: cell - 1,
        class: "cell", "data-on": on ? 1 : 0, rx: 1.5,
        fill: on ? (cross ? "var(--purple)" : "var(--blue)") : "var(--well)" }));
    }
  }
  svg.append(s("rect", { x: left - 1, y: 1 + chosen * cell, width: side + 1, height: cell + 1,
    fill: "none", stroke: "var(--orange)", "stroke-width": 2, rx: 2 }));
  return svg;
}

function render({ model, el }) {
  const ui = frame(model, el, "Who reads whom: encoder, decoder, encoder–decoder");
  const get = (name) => model.get(name);
  const levels = get("layers");
  const input = h("input", { type: "text", maxlength: 100, "data-name": "text",
    "aria-label": "Your sentence, at most seven words", style: "width:100%;box-sizing:border-box;"
      + "font:inherit;padding:6px 9px;border:1px solid var(--line);border-radius:7px;"
      + "background:var(--well);color:var(--ink)",
    oninput: () => { if (input.value.trim()) put(model, { text: input.value }); } });
  const spread = () => {
    const found = inputsOf(get("text"));
    if (!found.tokens.length) return;
    put(model, { ...found, token: Math.min(get("token"), found.tokens.length - 1),
      place: found.source.length + found.target.length - 1 });
  };
  model.on("change:text", spread);
  const level = slider({ label: "Layer that reads", name: "layer", min: 1, max: levels, step: 1,
    input: (layer) => put(model, { layer }) });
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶ Play"; };
  const play = button("▶ Play", () => {
    if (timer !== null) { stop(); return; }
    play.textContent = "■ Stop";
    put(model, { layer: 1 });
    timer = setInterval(() => {
      if (get("layer") >= levels) stop();
      else put(model, { layer: get("layer") + 1 });
    }, 900);
  }, { "data-name": "play" });
  ui.controls.append(h("div", { style: "flex:1 1 100%" }, input), level.node,
    h("div", { class: "walk" }, play));
  const note = h("p", { class: "note" }, "Lines: what the chosen token reads, one level below; "
    + "dashed: cross-attention to the source's last layer. Ringed dots: everything it draws on.");
  ui.readout.after(note);

  function draw(width) {
    level.set(get("layer"));
    if (document.activeElement !== input) input.value = get("text");
    const n = get("source").length;
    const text = get("tokens"), both = [...get("source"), ...get("target")];
    const panels = [
      { kind: KINDS[0], words: text, n: text.length,
        chosen: Math.min(get("token"), text.length - 1), name: "token" },
      { kind: KINDS[1], words: text, n: text.length,
        chosen: Math.min(get("token"), text.length - 1), name: "token" },
      { kind: KINDS[2], words: both, n,
        chosen: Math.min(get("place"), both.length - 1), name: "place" },
    ];
    const wide = width >= 560, columns = panels.reduce((sum, p) => sum + p.words.length, 0);
    const inside = document.activeElement?.dataset?.j === undefined ? -1
      : [...ui.body.querySelectorAll("svg[data-kind]")].findIndex((node) =>
        node.contains(document.activeElement));
    const said = [];
    const drawn = panels.map((panel) => {
      const space = wide ? Math.floor((width - 32) * panel.words.length / columns)
        : Math.min(width, 420);
      const count = panel.words.filter((_, j) => reads(panel.kind, panel.n, panel.chosen, j)).length;
      const part = panel.kind !== KINDS[2] ? "" : panel.chosen < n ? " (source)" : " (target)";
      said.push(`${panel.kind}: ${quote(panel.words[panel.chosen])}${part} reads <b>${count}</b> of `
        + `${panel.words.length}`);
      return h("div", { class: "panel", "data-kind": panel.kind, "data-count": count },
        h("p", { style: "margin:0 0 4px;font-weight:600" }, panel.kind),
        streams(panel, space, levels, get("layer"), (j) => {
          if (j !== get(panel.name)) put(model, { [panel.name]: j });
        }), mask(panel, space));
    });
    ui.body.replaceChildren(h("div", { style: wide
      ? "display:flex;gap:16px;align-items:flex-start" : "display:grid;gap:18px" }, drawn));
    if (inside >= 0) {
      ui.body.querySelectorAll("svg[data-kind]")[inside].querySelector('[tabindex="0"]').focus();
    }
    ui.say(`Layer ${get("layer")}. ${said.join("; ")}.`);
  }
  const undo = redraw(model, ui.body, ["token", "place", "layer", "tokens", "source", "target"], draw);
  return () => { stop(); model.off("change:text", spread); undo(); };
}

export default { render };
