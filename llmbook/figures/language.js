// A language model in the page: a byte-level tokenizer, a GPT with a cache of keys and values, and
// the cuts that sampling makes. On the layers of forward.js.

// GPT-2's pieces of a text; white space as Unicode has it.
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const PIECES = new RegExp("'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+"
  + `| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");

// Byte-level BPE. bytes: the id of each of the 256 bytes; merges: [left, right, joined], the
// earliest first; tokens: the bytes of each id, in hexadecimal ("" for a special token).
function makeTokenizer({ bytes, merges, tokens }) {
  const rank = new Map(merges.map(([a, b], i) => [a * 65536 + b, i]));
  const data = tokens.map((hex) => Uint8Array.from(hex.match(/../g) ?? [], (two) => parseInt(two, 16)));
  const merged = (ids) => {
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++) best = Math.min(best, rank.get(ids[i] * 65536 + ids[i + 1]) ?? best);
      if (best === Infinity) return ids;
      const [a, b, joined] = merges[best], out = [];
      for (let i = 0; i < ids.length; i++) {
        if (ids[i] === a && ids[i + 1] === b) { out.push(joined); i++; } else out.push(ids[i]);
      }
      ids = out;
    }
  };
  return {
    // Special tokens that the text spells out are plain text here.
    encode: (text) => [...text.matchAll(PIECES)].flatMap(([piece]) =>
      merged([...new TextEncoder().encode(piece)].map((byte) => bytes[byte]))),
    decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...data[id]]))),
    // A token alone, to be shown: what is no whole character by its bytes.
    name(id) {
      if (!data[id].length) return "⊔";
      try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data[id]);
      } catch {
        return [...data[id]].map((byte) => `⟨${byte.toString(16).toUpperCase().padStart(2, "0")}⟩`).join("");
      }
    },
  };
}

// A GPT-2 as llmbook.models.gpt has it: w its weights by their names there. read(ids) reads
// further tokens, one or several; what was read before is in the cache. It returns
//   logits: of the token after the last one, Float64Array(vocabulary);
//   lens: the same from the state after the embedding and after each block, by the last norm;
//   attention: [block][head] the last token's weights on each token so far.
// readWhole(ids, { keep, seen, edit }) forgets what was read and reads a whole text:
//   keep(block, head): false leaves out what a head adds; seen(i, j): may token i look at token j?
//   edit(x, n): may change what flows after n blocks, in place
//   → maps: [block][head][query][key], logits: [token] of the token after each.
function makeGPT(w, { n_heads, max_len, eps }) {
  const width = w["tokens.weight"].cols, size = width / n_heads;
  const blocks = Object.keys(w).filter((name) => /^blocks\.\d+\.norm1\.weight$/.test(name)).length;
  const held = Array.from({ length: blocks }, () => ({
    keys: new Float64Array(max_len * width), values: new Float64Array(max_len * width) }));
  let length = 0;
  const part = (x, from) => { // columns from … from + width of every row
    const out = matrix(x.rows, width);
    for (let t = 0; t < x.rows; t++) out.data.set(row(x, t).subarray(from, from + width), t * width);
    return out;
  };
  const toLogits = (x) => linear(layerNorm(x, w["norm.weight"], w["norm.bias"], eps), w["tokens.weight"]);
  const lastLogits = (x) => row(toLogits(matrix(1, width, row(x, x.rows - 1).slice())), 0);
  // Through all blocks; visit(state, weights) after the embedding, without weights, and each block.
  const pass = (ids, { keep, seen, edit = () => {} } = {}, visit = () => {}) => {
    if (!ids.length || length + ids.length > max_len) {
      throw new Error(`${ids.length} tokens after ${length}: there is room for 1 to ${max_len - length}`);
    }
    const places = ids.map((_, t) => length + t), start = length;
    let x = plus(embedding(ids, w["tokens.weight"]), embedding(places, w["positions.weight"]));
    edit(x, 0);
    visit(x);
    length += ids.length;
    const bias = seen && ((_, i, j) => (seen(start + i, j) ? 0 : -Infinity));
    held.forEach(({ keys, values }, b) => {
      const own = (name) => w[`blocks.${b}.${name}`];
      const qkv = linear(layerNorm(x, own("norm1.weight"), own("norm1.bias"), eps),
        own("attention.in_proj_weight"), own("attention.in_proj_bias"));
      keys.set(part(qkv, width).data, start * width);
      values.set(part(qkv, 2 * width).data, start * width);
      const upTo = (data) => matrix(length, width, data.subarray(0, length * width));
      const { out, weights } = attention(part(qkv, 0), upTo(keys), upTo(values),
        { heads: n_heads, causal: true, bias });
      for (let head = 0; keep && head < n_heads; head++) {
        if (keep(b, head)) continue;
        for (let t = 0; t < out.rows; t++) row(out, t).fill(0, head * size, (head + 1) * size);
      }
      x = plus(x, linear(out, own("attention.out_proj.weight"), own("attention.out_proj.bias")));
      x = plus(x, feedForward(layerNorm(x, own("norm2.weight"), own("norm2.bias"), eps), {
        up: own("ffn.up.weight"), upBias: own("ffn.up.bias"),
        down: own("ffn.down.weight"), downBias: own("ffn.down.bias") }, geluTanh));
      edit(x, b + 1);
      visit(x, weights);
    });
    return x;
  };
  return {
    get length() { return length; },
    max_len,
    crop(n) { length = Math.min(length, n); },
    read(ids, look = false) {
      const lens = [], looks = [];
      const x = pass(ids, {}, look ? (state, weights) => {
        lens.push(lastLogits(state));
        if (weights) looks.push(weights.map((rows) => rows[rows.length - 1]));
      } : undefined);
      return { logits: look ? lens[blocks] : lastLogits(x), lens, attention: looks };
    },
    readWhole(ids, change) {
      length = 0;
      const maps = [], logits = toLogits(pass(ids, change, (_, weights) => { if (weights) maps.push(weights); }));
      return { maps, logits: ids.map((_, t) => row(logits, t)) };
    },
  };
}

const logSoftmax = (logits) => {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = Math.log(logits.reduce((sum, v) => sum + Math.exp(v - top), 0)) + top;
  return Array.from(logits, (v) => v - total);
};

// Softmax at a temperature, cut by top-k, top-p and min-p in this order; tokens in order of
// probability, of equally likely ones the lower id first.
function cutTo(logP, temperature, topK, topP, minP = 0) {
  const top = logP.reduce((a, b) => Math.max(a, b));
  let p = logP.map((v) => Math.exp((v - top) / temperature));
  const order = p.map((v, i) => i).sort((a, b) => p[b] - p[a] || a - b);
  const scale = () => { const sum = order.reduce((t, i) => t + p[i], 0); p = p.map((v) => v / sum); };
  scale();
  if (topK) {
    for (const i of order.slice(topK)) p[i] = 0;
    scale();
  }
  if (topP < 1) {
    let before = 0;
    for (const i of order) {
      const mine = p[i];
      if (before >= topP) p[i] = 0;
      before += mine;
    }
    scale();
  }
  if (minP > 0) {
    const least = minP * p[order[0]];
    for (const i of order) if (p[i] < least) p[i] = 0;
    scale();
  }
  return { p, order };
}

// One token from p, given a number from 0 up to 1.
function drawFrom({ p, order }, chance) {
  let pick = order[0];
  for (const i of order) {
    if (p[i] === 0) break;
    pick = i;
    chance -= p[i];
    if (chance < 0) break;
  }
  return pick;
}

const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
// A token as it can be seen: blanks and line ends have a sign.
const visible = (token) => (/^ [^ \n]+$/.test(token) ? "␣" + token.slice(1)
  : token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥"));
