// A text cut four ways. makeTokenizer is language.js's; the two others are here.

const PUNCTUATION = "!-/:-@\\[-`{-~\\p{P}"; // BERT's: all of ASCII's signs, and Unicode's
const BERT_WORDS = new RegExp(`[${PUNCTUATION}]|[^${SPACE}${PUNCTUATION}]+`, "gu");
const WORDS = new RegExp(`[^${SPACE}\\x1c-\\x1f]+`, "gu");
const GONE = new Set(["[UNK]", "<unk>"]);

// The longest piece that fits, then on behind it; a word that cannot be finished is unknown.
function wordPieces(vocab, word) {
  const letters = [...word], pieces = [];
  for (let start = 0; start < letters.length;) {
    let end = letters.length, piece = "";
    for (; end > start; end--) {
      piece = (start ? "##" : "") + letters.slice(start, end).join("");
      if (vocab.has(piece)) break;
    }
    if (end === start || letters.length > 100) return ["[UNK]"];
    pieces.push(piece);
    start = end;
  }
  return pieces;
}

// The most probable cut, by Viterbi from the front; neighbours that no piece covers are one <unk>.
function unigramPieces(scores, least, widest, word) {
  const letters = [...word], best = [0, ...letters.map(() => -Infinity)], back = [];
  const offer = (start, end, score, known) => {
    if (best[start] + score > best[end]) { best[end] = best[start] + score; back[end] = [start, known]; }
  };
  letters.forEach((letter, start) => {
    for (let end = start + 1; end <= Math.min(letters.length, start + widest); end++) {
      const score = scores.get(letters.slice(start, end).join(""));
      if (score !== undefined) offer(start, end, score, true);
    }
    if (!scores.has(letter)) offer(start, start + 1, least - 10, false);
  });
  const pieces = [];
  for (let end = letters.length; end > 0;) {
    const [start, known] = back[end];
    if (known) pieces.unshift(letters.slice(start, end).join(""));
    else if (pieces[0] !== "<unk>") pieces.unshift("<unk>");
    end = start;
  }
  return pieces;
}

const shown = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
const hex = (byte) => byte.toString(16).toUpperCase().padStart(2, "0");

function render({ model, el }) {
  const get = (name) => model.get(name);
  const ui = frame(model, el, "One text, four tokenizers");
  const order = get("byte_order"), learned = get("bpe");
  const bytes = []; // the id of each byte
  order.forEach((byte, i) => { bytes[byte] = i; });
  const tokens = order.map(hex);
  for (const [a, b, joined] of learned) tokens[joined] = tokens[a] + tokens[b];
  const vocab = new Set(get("wordpiece")), scores = new Map(get("unigram"));
  const least = Math.min(...scores.values());
  const widest = Math.max(...[...scores.keys()].map((piece) => [...piece].length));

  const field = h("textarea", { rows: 2, maxlength: 400, "data-name": "text", "aria-label": "Text",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.35rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:6px",
    oninput: () => put(model, { text: field.value }) });
  const bar = slider({ label: "Merges that byte-pair encoding has learned", name: "merges", min: 0,
    max: learned.length, step: 1, input: (k) => put(model, { merges: k }) });
  ui.controls.append(h("label", { style: "flex:1 1 100%;min-width:0" }, "Your text", field), bar.node);

  // What the text is when it is put together again from the tokens.
  const again = {
    bytes: (text) => text,
    BPE: (text) => text,
    WordPiece: (text, cut) => cut.join(" ").replaceAll(" ##", ""),
    Unigram: (text, cut) => cut.join("").replaceAll("▁", " ").slice(1),
  };
  function cutAll(text) {
    const bpe = makeTokenizer({ bytes, merges: learned.slice(0, get("merges")), tokens });
    return {
      bytes: [...new TextEncoder().encode(text)].map((b) => (b < 128 ? String.fromCharCode(b) : `⟨${hex(b)}⟩`)),
      BPE: bpe.encode(text).map(bpe.name),
      WordPiece: [...text.matchAll(BERT_WORDS)].flatMap(([word]) => wordPieces(vocab, word)),
      Unigram: [...text.matchAll(WORDS)].flatMap(([word]) => unigramPieces(scores, least, widest, "▁" + word)),
    };
  }

  function draw() {
    const text = String(get("text")), cut = cutAll(text); // a button may have set a number
    if (field.value !== text) field.value = text;
    bar.set(get("merges"));
    const told = [];
    ui.body.replaceChildren(...Object.entries(cut).map(([name, pieces]) => {
      const unknown = pieces.filter((p) => GONE.has(p)).length;
      const back = unknown === 0 && again[name](text, pieces) === text;
      told.push(`${name} ${pieces.length}`);
      const verdict = unknown ? `${unknown} unknown` : back ? "comes back whole" : "white space is lost";
      return h("div", { class: "way", "data-way": name, "data-tokens": JSON.stringify(pieces),
        "data-back": String(back), style: "margin:.15rem 0 .7rem" },
      h("p", { style: "margin:0 0 3px" }, h("b", {}, name === "bytes" ? "Bytes" : name),
        `: ${pieces.length} tokens, ${verdict}`),
      h("div", { role: "img", "aria-label": `${name}, ${pieces.length} tokens`, style: "display:flex;"
        + "flex-wrap:wrap;gap:3px 2px;max-height:8.2rem;overflow-y:auto" },
      pieces.map((piece, i) => h("span", { class: "part", style: "padding:1px 4px;border-radius:4px;"
        + "white-space:pre;max-width:100%;overflow-wrap:anywhere;"
        + `background:${GONE.has(piece) ? "color-mix(in srgb, var(--orange) 40%, var(--paper))"
          : `color-mix(in srgb, var(--${i % 2 ? "blue" : "green"}) 20%, var(--paper))`}` }, shown(piece)))));
    }));
    ui.say(text ? `${new TextEncoder().encode(text).length} bytes. Tokens after `
      + `${get("merges")} merges: <b>${told.slice(1).join(", ")}</b>.`
      : "Type something.");
  }
  return redraw(model, ui.body, ["text", "merges"], draw);
}

export default { render };
