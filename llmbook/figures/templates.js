const FIELDS = [["system", "system"], ["question", "user"], ["answer", "assistant"], ["again", "user"],
  ["second", "assistant"]];
const HINTS = { system: "empty: left out", question: "a question", answer: "an answer",
  again: "empty: left out", second: "empty: left out" };
const CUT = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

// Byte → printable stand-in, as byte_names.py has it.
const STAND_IN = (() => {
  const prints = (b) => (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
  let hidden = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(prints(b) ? b : 0x100 + hidden++));
})();
const BYTE = new Map(STAND_IN.map((c, b) => [c, b]));

function visible(token) {
  const bytes = Uint8Array.from([...token].map((c) => BYTE.get(c)));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replaceAll(" ", "␣").replaceAll("\n", "⏎");
  } catch {
    return [...bytes].map((b) => b.toString(16).toUpperCase().padStart(2, "0")).join("·");
  }
}

// A piece of text as tokens: of all neighbours that can merge, the earliest-learned pair first.
function merged(piece, rank) {
  const parts = [...new TextEncoder().encode(piece)].map((b) => STAND_IN[b]);
  for (;;) {
    let best = Infinity, at = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const r = rank.get(parts[i] + " " + parts[i + 1]);
      if (r !== undefined && r < best) { best = r; at = i; }
    }
    if (at < 0) return parts;
    parts.splice(at, 2, parts[at] + parts[at + 1]);
  }
}
const cut = (text, rank) => (text.match(CUT) ?? []).flatMap((piece) => merged(piece, rank));

// [token, id, does it count, is it a mark, is it an end] of a conversation.
function encoded(get) {
  const rank = new Map(get("merges").map(([a, b], i) => [a + " " + b, i]));
  const ids = new Map(get("tokens")), marks = new Map(get("marks"));
  const said = FIELDS.map(([name, role]) => [role, get(name)]).filter(([, text]) => text.trim());
  const last = said.map(([role]) => role).lastIndexOf("assistant");
  const out = [];
  const text = (words, counts) => cut(words, rank).forEach((t) => out.push({ text: visible(t), id: ids.get(t), counts }));
  const mark = (name, counts, end) => {
    if (get("special")) out.push({ text: name, id: marks.get(name), counts, mark: true });
    else cut(name, rank).forEach((t) => out.push({ text: visible(t), id: ids.get(t), counts, mark: true }));
  };
  said.forEach(([role, words], i) => {
    const all = get("counted") === "everything";
    const ours = all || (role === "assistant" && (get("counted") === "answers" || i === last));
    mark(`<|${role}|>`, all);
    text(words, ours);
    mark("<|end|>", ours && get("end"));
  });
  return { out, said };
}

const TALKS = [
  { system: "", question: "Last word: red owl", answer: "owl", again: "In capitals", second: "OWL" },
  { system: "Answer in English.", question: "Sum: 3 + 4", answer: "7", again: "", second: "" },
  { system: "", question: "Is it late?", answer: "It is ten to nine.", again: "Thanks!", second: "With pleasure." },
];

function render({ model, el }) {
  const ui = frame(model, el, "What does the loss count of your conversation?");
  const get = (name) => model.get(name);
  const inputs = FIELDS.map(([name, role]) => {
    const field = h("input", { type: "text", maxlength: 60, "aria-label": `${role} says (${name})`, "data-name": name,
      placeholder: HINTS[name], style: "flex:1 1 0;width:0;min-width:0;font:inherit;padding:.25rem .5rem;color:inherit;"
        + "background:var(--well);border:1px solid var(--line);border-radius:6px",
      oninput: () => put(model, { [name]: field.value }) });
    return [name, field, h("label", { style: "display:flex;gap:.6rem;align-items:center;margin:0 0 .3rem" },
      h("span", { style: "flex:0 0 5.2rem;color:var(--soft)" }, role), field)];
  });
  const other = button("Another conversation", () => {
    talk = (talk + 1) % TALKS.length;
    put(model, TALKS[talk]);
  }, { "data-name": "other" });
  const counted = choice({ label: "The loss counts", name: "counted",
    options: [["answers", "every answer"], ["last answer", "the last answer"], ["everything", "everything"]],
    input: (x) => put(model, { counted: x }) });
  const end = choice({ label: "and the end token", name: "end", options: [[true, "yes"], [false, "no"]],
    input: (x) => put(model, { end: x }) });
  const special = choice({ label: "The template's marks are", name: "special",
    options: [[true, "tokens of their own"], [false, "plain text"]], input: (x) => put(model, { special: x }) });
  ui.controls.append(h("div", { style: "flex:1 1 100%;min-width:0" }, inputs.map(([, , node]) => node)),
    counted.node, end.node, special.node, h("div", { class: "walk" }, other));
  let talk = 0;
  const row = h("div", { role: "img", style: "display:flex;flex-wrap:wrap;gap:4px 3px;align-content:flex-start;min-height:7rem" });
  const written = h("div", { "data-name": "text", style: "white-space:pre-wrap;overflow-wrap:anywhere;"
    + "font-family:monospace;font-size:14px;min-height:3.2em;margin:0 0 .6rem" });
  ui.body.append(written, row);

  function draw() {
    for (const [name, field] of inputs) if (document.activeElement !== field) field.value = get(name);
    counted.set(get("counted")); end.set(get("end")); special.set(get("special"));
    const { out, said } = encoded(get);
    const count = out.filter((t) => t.counts).length;
    const text = said.map(([role, words]) => `<|${role}|>${words}<|end|>`).join("");
    written.textContent = text;
    row.setAttribute("aria-label", `${out.length} tokens, ${count} of which count`);
    row.replaceChildren(...out.map((t) => h("span", { class: "tok", "data-id": t.id, "data-counts": t.counts ? 1 : 0,
      style: "display:inline-flex;flex-direction:column;align-items:center;padding:1px 4px;border-radius:4px;min-width:0;"
        + `background:${t.counts ? "color-mix(in srgb, var(--green) 26%, var(--paper))" : "var(--well)"};`
        + `border:1px solid ${t.counts ? "var(--green)" : "var(--line)"}` },
    h("span", { style: "white-space:pre;font-family:monospace;font-size:14px;overflow-wrap:anywhere;"
      + `color:var(--${t.mark && !t.counts ? "purple" : "ink"})` + (t.mark ? ";font-weight:650" : "") }, t.text),
    h("span", { style: `font-size:12px;color:var(--${t.counts ? "ink" : "soft"})` }, t.counts ? "counts" : "–"))));
    Object.assign(ui.readout.dataset, { tokens: out.length, counted: count });
    const silent = !said.some(([role]) => role === "assistant");
    const forgets = count && !get("end") ? " A model tuned so never learns to stop." : "";
    const asks = get("counted") === "everything" ? " It learns to write questions, too." : "";
    ui.say(silent ? "No answer, so there is nothing to learn from: such a conversation is refused."
      : `<b>${count}</b> of <b>${out.length}</b> tokens count (${Math.round(100 * count / out.length)}%); `
        + `${out.filter((t) => t.mark).length} are the template's.${forgets}${asks}`);
  }
  return redraw(model, ui.body, [...FIELDS.map(([name]) => name), "counted", "end", "special"], draw);
}

export default { render };
