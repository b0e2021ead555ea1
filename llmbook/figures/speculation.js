const HUE = { model: "blue", draft: "orange", rest: "green" };
const share = (v) => (v >= 0.0995 ? `${fixed(0)(100 * v)}%` : `${fixed(1)(100 * v)}%`);
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const seen = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
const sharpened = (row, temperature) => {
  const powers = row.map((v) => v ** (1 / temperature)), sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
};
const pick = (row, chance) => {
  let i = 0;
  for (; i < row.length - 1; i++) { chance -= row[i]; if (chance < 0) break; }
  while (row[i] === 0 && i > 0) i--;
  return i;
};
const ROUNDS = 1000;

function render({ model, el }) {
  const ui = frame(model, el, "Guess, check, correct");
  const get = (name) => model.get(name), cases = get("cases");
  let dice = [], tally = null;
  // p of the model, q of the draft, what both have, and what a rejected guess is replaced from
  const laws = () => {
    const { p, q: as } = cases[get("case")], q = sharpened(as, get("warmth"));
    const over = p.map((v, i) => Math.max(0, v - q[i])), sum = over.reduce((a, b) => a + b, 0);
    return { p, q, both: p.map((v, i) => Math.min(v, q[i])), rest: sum > 0 ? over.map((v) => v / sum) : p };
  };
  const turn = ({ p, q, rest }, [first, second, third]) => {
    const guess = pick(q, first), limit = Math.min(1, p[guess] / q[guess]), accepted = second < limit;
    return { guess, limit, chance: second, accepted, token: accepted ? guess : pick(rest, third) };
  };
  const anew = (stage) => {
    tally = null;
    if (stage === 1) dice = [Math.random(), Math.random(), Math.random()];
    put(model, { stage });
  };
  const which = choice({ label: "Text", name: "case", options: cases.map((_, i) => [i, String(i + 1)]),
    input: (i) => { tally = null; put(model, { case: i, stage: 0 }); show(); } });
  const warmth = slider({ label: "Temperature of the draft", name: "warmth", min: 0.2, max: 5, step: 0.1,
    show: fixed(1), colour: HUE.draft, input: (v) => { tally = null; put(model, { warmth: v, stage: 0 }); show(); } });
  const step = button("", () => anew(get("stage") === 3 || get("stage") === 2 && now().accepted ? 1 : get("stage") + 1),
    { "data-name": "step" });
  const many = button(`${format(ROUNDS)} rounds`, () => {
    const law = laws(), { p } = law;
    tally = { tokens: p.map(() => 0), accepted: 0 };
    for (let i = 0; i < ROUNDS; i++) {
      const one = turn(law, [Math.random(), Math.random(), Math.random()]);
      tally.tokens[one.token] += 1;
      tally.accepted += one.accepted ? 1 : 0;
    }
    put(model, { stage: 0 });
    show();
  }, { "data-name": "many" });
  const text = h("p", { class: "note", style: "margin:0 0 .5rem" });
  ui.controls.append(which.node, warmth.node);
  ui.controls.after(text, h("div", { class: "walk", style: "margin-bottom:.5rem" }, step, many));
  ui.readout.after(h("p", { class: "note" }, "Blue: the model. Orange: the draft. Green: what a rejected guess is "
    + "replaced from. Dots: how often a token came out."));
  const now = () => { if (!dice.length) dice = [0.5, 0.5, 0.5]; return turn(laws(), dice); };
  let width = 0;

  function show() {
    if (!width) return;
    const { tokens, before } = cases[get("case")], law = laws(), { p, q, both, rest } = law, stage = get("stage");
    const one = stage ? now() : null, corrected = stage === 3 && !one.accepted;
    which.set(get("case"));
    warmth.set(get("warmth"));
    text.textContent = `… ${before}`;
    step.textContent = { 0: "Guess", 1: "Check", 2: one?.accepted ? "Next guess" : "Correct", 3: "Next guess" }[stage];
    const tall = 44, left = Math.min(104, 0.3 * width), right = 46;
    const svg = s("svg", { viewBox: `0 0 ${width} ${tall * p.length}`, height: tall * p.length, "aria-hidden": "true" });
    const top = Math.max(...p, ...q, ...(corrected ? rest : [])), wide = (v) => (width - left - right) * v / top;
    tokens.forEach((token, i) => {
      const y = tall * i, mine = one?.guess === i;
      const bar = (kind, v, at, extra = {}) => svg.append(
        s("rect", { class: kind, x: left, y: y + at, width: wide(v), height: 11, fill: `var(--${HUE[kind]})`,
          "data-i": i, "data-v": v, ...extra }));
      svg.append(s("text", { x: left - 8, y: y + 20, "text-anchor": "end",
        style: one && (stage === 3 ? one.token === i : mine) ? "font-weight:700" : null },
        (mine && stage < 3 ? "▸ " : stage === 3 && one.token === i ? "▸ " : "") + seen(token).slice(0, 12)));
      bar("model", p[i], 4);
      if (corrected) bar("rest", rest[i], 17);
      else bar("draft", q[i], 17);
      const most = Math.max(p[i], corrected ? rest[i] : q[i]);
      svg.append(s("text", { class: "soft", x: left + wide(most) + 6, y: y + 20 }, share(p[i])));
      if (mine && stage >= 1 && !corrected) svg.append(s("line", { x1: left + wide(both[i]), x2: left + wide(both[i]),
        y1: y + 1, y2: y + 31, stroke: "var(--ink)", "stroke-width": 2, "stroke-dasharray": "3 2" }));
      if (tally) svg.append(s("circle", { class: "came", cx: left + wide(tally.tokens[i] / ROUNDS), cy: y + 9.5, r: 5,
        fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 2, "data-count": tally.tokens[i] }));
    });
    ui.body.replaceChildren(svg);
    const agree = both.reduce((a, b) => a + b, 0), name = (i) => `“${plain(seen(tokens[i]))}”`;
    Object.assign(ui.readout.dataset, { agree, limit: one?.limit ?? "", accepted: one ? Number(one.accepted) : "",
      token: one ? one.token : "", guess: one ? one.guess : "" });
    ui.say([
      () => `A guess stands with probability Σ min(p, q) = <b>${share(agree)}</b>. ` + (tally
        ? `Of ${format(ROUNDS)} guesses ${tally.accepted} stood; the dots lie on blue, not on orange.`
        : "Let the draft guess."),
      () => `The draft guesses <b>${name(one.guess)}</b>: it gives it ${share(q[one.guess])}, the model `
        + `${share(p[one.guess])}.`,
      () => `It may stand with probability min(1, p/q) = <b>${fixed(2)(one.limit)}</b>; the dice say `
        + `${fixed(2)(one.chance)}: <b>${one.accepted ? "accepted" : "rejected"}</b>.`,
      () => (one.accepted ? `<b>${name(one.token)}</b> stands.`
        : `From max(0, p − q), scaled to 1, comes <b>${name(one.token)}</b>: what the draft undersells.`),
    ][stage]());
  }
  return redraw(model, ui.body, ["case", "warmth", "stage"], (w) => { width = w; show(); });
}

export default { render };
