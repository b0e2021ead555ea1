const GATES = [["f", "Forget gate f", "blue"], ["i", "Input gate i", "green"], ["o", "Output gate o", "purple"]];
const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
const two = fixed(2);

// c_t = f c_{t-1} + i g, h_t = o tanh(c_t), with held gates from step `since` on.
function replay(gates, unit, held, since) {
  const column = (name) => gates[name].map((row, t) =>
    (t >= since && name in held ? held[name] : row[unit]));
  const [f, i, o] = ["f", "i", "o"].map(column), g = gates.g.map((row) => row[unit]);
  let c = gates.c0[unit];
  return f.map((_, t) => {
    const before = c;
    c = f[t] * c + i[t] * g[t];
    return { f: f[t], i: i[t], o: o[t], g: g[t], before, c, h: o[t] * Math.tanh(c) };
  });
}

// A vertical meter: how far a gate is open, or (from = 0.5) how far a signed number is from zero.
function meter(x, y, share, from, colour, held) {
  const top = y + 52 * (1 - Math.max(share, from)), size = 52 * Math.abs(share - from);
  return s("g", {},
    s("rect", { x: x - 13, y, width: 26, height: 52, rx: 4, fill: "var(--well)",
      stroke: held ? "var(--orange)" : "var(--line)", "stroke-width": held ? 2.5 : 1 }),
    s("rect", { x: x - 13, y: top, width: 26, height: size, rx: 3, fill: `var(--${colour})` }),
    from > 0 && s("line", { x1: x - 13, x2: x + 13, y1: y + 26, y2: y + 26, stroke: "var(--soft)" }) || []);
}

function diagram(now, held) {
  const svg = s("svg", { viewBox: "0 0 344 244", "aria-hidden": "true", class: "cell",
    style: "max-width:400px;margin:0 auto" });
  const flow = (d, share, colour) => s("path", { d, fill: "none", stroke: `var(--${colour})`,
    "stroke-width": 1.2 + 5.5 * Math.min(1, Math.abs(share)), "stroke-linejoin": "round" });
  const knot = (x, y, sign) => [
    s("circle", { cx: x, cy: y, r: 13, fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 1.4 }),
    s("text", { x, y: y + 6, "text-anchor": "middle", style: "font-size:18px" }, sign)];
  const box = (x, y, name, value, key) => [
    s("rect", { x: x - 33, y: y - 22, width: 66, height: 44, rx: 7, fill: "var(--well)",
      stroke: "var(--ink)", "stroke-width": 1.2 }),
    s("text", { x, y: y - 6, "text-anchor": "middle", class: "soft" }, name),
    s("text", { x, y: y + 14, "text-anchor": "middle", style: "font-size:16px;font-weight:650",
      "data-name": key, "data-value": value }, two(value))];
  const label = (x, name, key, value) => [
    s("text", { x, y: 222, "text-anchor": "middle", style: "font-weight:650", "data-name": `${key}-now`,
      "data-value": value }, two(value)),
    s("text", { x, y: 239, "text-anchor": "middle", class: "soft" }, name)];
  svg.append(
    flow("M68 40H104", 1, "soft"), flow("M104 40H176", now.f, "blue"),
    flow("M176 40H240", 1, "soft"), flow("M104 150V54", 0, "blue"),
    flow("M151 150V106H176", 0, "green"), flow("M206 150V106H176", 0, "soft"),
    flow("M176 106V54", now.i, "green"), flow("M272 62V126", 1, "soft"),
    flow("M325 150V126H285", 0, "purple"), flow("M272 126V170", now.o, "purple"),
    ...knot(104, 40, "×"), ...knot(176, 40, "+"), ...knot(176, 106, "×"), ...knot(272, 126, "×"),
    s("rect", { x: 251, y: 78, width: 42, height: 21, rx: 5, fill: "var(--paper)", stroke: "var(--soft)" }),
    s("text", { x: 272, y: 93, "text-anchor": "middle" }, "tanh"),
    ...box(35, 40, "c before", now.before, "c-before"), ...box(272, 40, "c now", now.c, "c-now"),
    ...box(272, 190, "h", now.h, "h-now"),
    meter(104, 150, now.f, 0, "blue", "f" in held), meter(151, 150, now.i, 0, "green", "i" in held),
    meter(206, 150, (now.g + 1) / 2, 0.5, "soft", false), meter(325, 150, now.o, 0, "purple", "o" in held),
    ...label(104, "forget", "f", now.f), ...label(151, "input", "i", now.i),
    ...label(206, "candidate", "g", now.g), ...label(325, "output", "o", now.o));
  return svg;
}

function trace(width, own, other, step, tokens) {
  const all = [...own, ...(other ?? [])].map((one) => one.c);
  const low = Math.min(0, ...all), high = Math.max(0, ...all);
  const pad = 0.08 * (high - low || 1);
  const last = tokens.length - 1;
  const view = chart({ width, height: 252, x: [1, Math.max(2, last + 1)], y: [low - pad, high + pad],
    left: 40, xlabel: "token number", ylabel: "cell state c" });
  const { area, px, py, svg } = view;
  area.append(
    s("line", { class: "axis", x1: px(1), x2: px(last + 1), y1: py(0), y2: py(0) }),
    s("line", { x1: px(step + 1), x2: px(step + 1), y1: py(low - pad), y2: py(high + pad),
      stroke: "var(--line)", "stroke-width": 9, opacity: 0.7 }));
  const draw = (rows, name, colour, dashed) => {
    area.append(line(view, rows.map((one, t) => [t + 1, one.c]),
      { stroke: `var(--${colour})`, "stroke-dasharray": dashed && "5 4" }));
    rows.forEach((one, t) => area.append(s("circle", { class: name, cx: px(t + 1).toFixed(2),
      cy: py(one.c).toFixed(2), r: t === step ? 5.5 : 2.6, fill: `var(--${colour})`,
      "data-t": t, "data-c": one.c, "data-h": one.h })));
  };
  draw(own, "own", other ? "soft" : "ink", Boolean(other));
  if (other) draw(other, "held", "orange", false);
  if (other) {
    svg.append(s("text", { x: width - 14, y: 13, "text-anchor": "end" },
      s("tspan", { style: "fill:var(--soft)" }, "- - model’s own  "),
      s("tspan", { style: "fill:var(--orange);font-weight:650" }, "— held")));
  }
  return svg;
}

function render({ model, el }) {
  const ui = frame(model, el, "Inside an LSTM unit, token by token");
  const get = (name) => model.get(name);
  const tokens = get("tokens"), last = tokens.length - 1;
  const go = (to) => put(model, { step: Math.max(0, Math.min(last, to)) });
  const unit = choice({ label: "Unit", name: "unit", input: (u) => put(model, { unit: u }),
    options: get("names").map((name, u) => [u, name]) });
  const back = button("◀ Back", () => go(get("step") - 1), { "data-name": "back" });
  const next = button("Next ▶", () => go(get("step") + 1), { "data-name": "next" });
  const place = slider({ label: "Token", name: "step", min: 0, max: last, step: 1, input: go,
    show: (t) => `${t + 1} of ${last + 1}` });
  ui.controls.append(unit.node, h("div", { class: "walk" }, back, next), place.node);

  const chips = tokens.map((token, t) => h("button", { type: "button", class: "token",
    "data-t": t, onclick: () => go(t) }, visible(token)));
  const keys = { ArrowLeft: -1, ArrowRight: 1, Home: -tokens.length, End: tokens.length };
  const strip = h("div", { class: "tokens", role: "group", "aria-label": "Tokens",
    onkeydown: (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      go(get("step") + keys[event.key]);
      chips[get("step")].focus();
    } }, chips);
  ui.body.before(strip);

  const hold = (name) => (value) => {
    const held = get("held"), idle = Object.keys(held).length === 0;
    put(model, { since: idle ? get("step") : Math.min(get("since"), get("step")),
      held: { ...held, [name]: value } });
  };
  const gates = GATES.map(([name, label, colour]) => [name, slider({ label, name, colour, min: 0,
    max: 1, step: 0.01, show: two, input: hold(name) })]);
  const free = button("Use the model’s gates", () => put(model, { held: {} }), { "data-name": "free" });
  const state = h("span", {});
  ui.readout.before(h("div", { class: "controls gates" }, gates.map(([, one]) => one.node)));
  ui.readout.after(h("p", { class: "note" }, free, " ", state));

  function draw(width) {
    const step = get("step"), u = get("unit"), held = get("held"), since = get("since");
    const any = Object.keys(held).length > 0;
    const own = replay(get("gates"), u, {}, 0);
    const other = any ? replay(get("gates"), u, held, since) : null;
    const now = (other ?? own)[step], active = step >= since ? held : {};
    unit.set(u);
    place.set(step);
    back.disabled = step === 0;
    next.disabled = step === last;
    free.disabled = !any;
    for (const [name, one] of gates) {
      one.set(now[name]);
      one.node.classList.toggle("held", name in active);
    }
    chips.forEach((chip, t) => {
      chip.setAttribute("aria-current", String(t === step));
      chip.tabIndex = t === step ? 0 : -1;
    });
    const wide = width >= 600;
    ui.body.classList.toggle("two", wide);
    ui.body.replaceChildren(h("div", {}, diagram(now, active)),
      h("div", {}, trace(wide ? width - 350 : width, own, other, step, tokens)));
    ui.say(`The unit keeps <b>${Math.round(100 * now.f)} %</b> of its cell state `
      + `(${two(now.before)}) and adds ${two(now.i)} × ${two(now.g)} = <b>${two(now.i * now.g)}</b>: `
      + `c = <b>${two(now.c)}</b>. It shows h = ${two(now.o)} × tanh(c) = <b>${two(now.h)}</b>.`);
    state.textContent = !any ? "Move a gate to hold it from this token on."
      : `${Object.keys(held).join(", ")} held from token ${since + 1}, “${visible(tokens[since])}”, on. `
        + `With the model’s gates: c = ${two(own[step].c)}, h = ${two(own[step].h)}.`;
  }
  return redraw(model, ui.body, ["step", "unit", "held", "since"], draw);
}

export default { render };
