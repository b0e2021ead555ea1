// A model in the page: the layers of this book's models in plain JavaScript, forward only.
// A matrix is { rows, cols, data }, row by row; a row is a token. Weights have PyTorch's layout:
// (outputs, inputs). Computed in float64 from weights that were rounded to float16.

const matrix = (rows, cols, data = new Float64Array(rows * cols)) => ({ rows, cols, data });
const each = (x, f) => matrix(x.rows, x.cols, x.data.map(f));
const plus = (x, y) => matrix(x.rows, x.cols, x.data.map((v, i) => v + y.data[i]));
const times = (x, y) => matrix(x.rows, x.cols, x.data.map((v, i) => v * y.data[i]));
const row = (x, i) => x.data.subarray(i * x.cols, (i + 1) * x.cols);

// A float16, given as 16 bits, as a number.
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Packed weights, as llmbook.figures.forward.pack makes them, as matrices by name; a vector has one row.
// `bytes`: base64, or a DataView with the same.
function unpackWeights({ shapes, bytes }) {
  const view = typeof bytes === "string"
    ? new DataView(Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer) : bytes;
  const found = {};
  let place = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const cols = shape[shape.length - 1] ?? 1;
    const size = shape.reduce((a, b) => a * b, 1), data = new Float64Array(size);
    for (let i = 0; i < size; i++, place += 2) data[i] = half(view.getUint16(place, true));
    found[name] = matrix(size / cols, cols, data);
  }
  if (place !== view.byteLength) throw new Error(`weights: ${view.byteLength} bytes, ${place} expected`);
  return found;
}

// The rows of a table that ids name.
function embedding(ids, table) {
  const out = matrix(ids.length, table.cols);
  ids.forEach((id, i) => out.data.set(row(table, id), i * table.cols));
  return out;
}

// x Wᵀ + b
function linear(x, weight, bias) {
  if (x.cols !== weight.cols) throw new Error(`linear: x has ${x.cols} columns, the weight ${weight.cols}`);
  const out = matrix(x.rows, weight.rows);
  for (let i = 0; i < x.rows; i++) {
    for (let o = 0; o < weight.rows; o++) {
      let sum = bias ? bias.data[o] : 0;
      for (let k = 0, a = i * x.cols, b = o * x.cols; k < x.cols; k++) sum += x.data[a + k] * weight.data[b + k];
      out.data[i * weight.rows + o] = sum;
    }
  }
  return out;
}

// (x − mean) / √(variance + ε) · γ + β, row by row
function layerNorm(x, gain, bias, eps = 1e-5) {
  const out = matrix(x.rows, x.cols), n = x.cols;
  for (let i = 0; i < x.rows; i++) {
    const r = row(x, i), mean = r.reduce((a, b) => a + b, 0) / n;
    const scale = 1 / Math.sqrt(r.reduce((a, b) => a + (b - mean) ** 2, 0) / n + eps);
    r.forEach((v, j) => { out.data[i * n + j] = (v - mean) * scale * gain.data[j] + (bias ? bias.data[j] : 0); });
  }
  return out;
}

// x / √(mean of squares + ε) · γ
function rmsNorm(x, gain, eps = 1e-6) {
  const out = matrix(x.rows, x.cols), n = x.cols;
  for (let i = 0; i < x.rows; i++) {
    const r = row(x, i), scale = 1 / Math.sqrt(r.reduce((a, b) => a + b * b, 0) / n + eps);
    r.forEach((v, j) => { out.data[i * n + j] = v * scale * gain.data[j]; });
  }
  return out;
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const silu = (x) => each(x, (v) => v * sigmoid(v));
const relu = (x) => each(x, (v) => Math.max(0, v));
// x Φ(x); the error function by its series near 0 and its continued fraction further out
function erf(v) {
  const a = Math.abs(v);
  if (a > 6) return Math.sign(v);
  if (a < 2.5) {
    let term = a, sum = a;
    for (let n = 1; n < 60; n++) { term *= -a * a / n; sum += term / (2 * n + 1); }
    return Math.sign(v) * sum * 2 / Math.sqrt(Math.PI);
  }
  let tail = 0;
  for (let n = 40; n > 0; n--) tail = n / 2 / (a + tail);
  return Math.sign(v) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + tail));
}
const gelu = (x) => each(x, (v) => v * (1 + erf(v / Math.SQRT2)) / 2);
const geluTanh = (x) => each(x, (v) =>
  v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))) / 2);

// down(act(up(x))), and gated: down(silu(gate(x)) · up(x))
const feedForward = (x, { up, upBias, down, downBias }, act = gelu) =>
  linear(act(linear(x, up, upBias)), down, downBias);
const gatedFeedForward = (x, { gate, up, down }) => linear(times(silu(linear(x, gate)), linear(x, up)), down);

function softmax(r) {
  const top = Math.max(...r), e = r.map((v) => Math.exp(v - top)), sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
}

// Turn the pairs of each head's numbers by position times frequency. layout: "half" pairs i with
// i + d/2, "interleaved" pairs neighbours.
function rotate(x, heads, { base = 10000, layout = "half", start = 0 } = {}) {
  const d = x.cols / heads, out = matrix(x.rows, x.cols);
  for (let t = 0; t < x.rows; t++) for (let h = 0; h < heads; h++) for (let i = 0; i < d / 2; i++) {
    const angle = (start + t) * base ** (-2 * i / d), c = Math.cos(angle), s = Math.sin(angle);
    const at = t * x.cols + h * d, [a, b] = layout === "half" ? [at + i, at + i + d / 2] : [at + 2 * i, at + 2 * i + 1];
    out.data[a] = x.data[a] * c - x.data[b] * s;
    out.data[b] = x.data[a] * s + x.data[b] * c;
  }
  return out;
}

// Attention of several heads, before the output's projection. k and v may have fewer heads (kvHeads):
// neighbouring query heads share one. bias(head, i, j) is added to the scaled scores; causal lets the
// last query see every key. Returns { out, weights: [head][query][key] }.
function attention(q, k, v, { heads, kvHeads = heads, causal = false, rotary = null, bias = null } = {}) {
  if (rotary) {
    q = rotate(q, heads, { ...rotary, start: k.rows - q.rows });
    k = rotate(k, kvHeads, rotary);
  }
  const d = q.cols / heads, width = v.cols / kvHeads, out = matrix(q.rows, heads * width), weights = [];
  for (let h = 0; h < heads; h++) {
    const g = Math.floor(h * kvHeads / heads), rows = [];
    for (let i = 0; i < q.rows; i++) {
      const scores = Array.from({ length: k.rows }, (_, j) => {
        if (causal && j > i + k.rows - q.rows) return -Infinity;
        let sum = 0;
        for (let c = 0; c < d; c++) sum += q.data[i * q.cols + h * d + c] * k.data[j * k.cols + g * d + c];
        return sum / Math.sqrt(d) + (bias ? bias(h, i, j) : 0);
      });
      const share = softmax(scores);
      share.forEach((p, j) => { for (let c = 0; c < width; c++) {
        out.data[i * out.cols + h * width + c] += p * v.data[j * v.cols + g * width + c];
      } });
      rows.push(share);
    }
    weights.push(rows);
  }
  return { out, weights };
}

// One layer of a plain RNN over the rows of x: h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), from
// h = 0. gain: what W_hh is multiplied by. Returns the states, a row a step.
function rnn(x, { weight_ih, weight_hh, bias_ih, bias_hh }, gain = 1) {
  const n = weight_hh.cols, input = linear(x, weight_ih, bias_ih), states = matrix(x.rows, n);
  let h = matrix(1, n);
  for (let t = 0; t < x.rows; t++) {
    const from = linear(h, weight_hh);
    h = each(from, (v, j) => Math.tanh(input.data[t * n + j] + gain * v + bias_hh.data[j]));
    states.data.set(h.data, t * n);
  }
  return states;
}

// The way back through that layer: the gradient of a loss with respect to every state, given the
// gradient with respect to the last one: g_(t-1) = gain W_hhᵀ ((1 - h_t²) ∘ g_t).
function rnnBackward(states, { weight_hh }, last, gain = 1) {
  const n = states.cols, out = matrix(states.rows, n);
  let g = Float64Array.from(last);
  for (let t = states.rows - 1; t >= 0; t--) {
    out.data.set(g, t * n);
    const h = row(states, t), back = new Float64Array(n);
    for (let j = 0; j < n; j++) {
      const e = gain * (1 - h[j] * h[j]) * g[j];
      for (let k = 0; k < n; k++) back[k] += e * weight_hh.data[j * n + k];
    }
    g = back;
  }
  return out;
}

// One layer of an LSTM over the rows of x, gates stacked i, f, g, o as in PyTorch.
// From step 1 on a gate may be held, held = { f: 0.5 }, or h be kept from the gates, held = { h: 0 }.
// Returns { h, c, gates: { i, f, g, o } }, each with a row a step.
function lstm(x, { weight_ih, weight_hh, bias_ih, bias_hh }, state = null, held = {}) {
  const n = weight_hh.cols, input = linear(x, weight_ih, bias_ih);
  const all = Object.fromEntries(["h", "c", "i", "f", "g", "o"].map((name) => [name, matrix(x.rows, n)]));
  let h = matrix(1, n, state ? Float64Array.from(state.h) : undefined);
  const c = state ? Float64Array.from(state.c) : new Float64Array(n);
  for (let t = 0; t < x.rows; t++) {
    const hidden = linear(t && "h" in held ? matrix(1, n) : h, weight_hh, bias_hh), z = row(input, t);
    const open = (name, v) => t && name in held ? held[name] : sigmoid(v);
    h = matrix(1, n);
    for (let j = 0; j < n; j++) {
      const gate = (place) => z[place * n + j] + hidden.data[place * n + j];
      const i = open("i", gate(0)), f = open("f", gate(1)), g = Math.tanh(gate(2)), o = open("o", gate(3));
      c[j] = f * c[j] + i * g;
      h.data[j] = o * Math.tanh(c[j]);
      Object.entries({ h: h.data[j], c: c[j], i, f, g, o }).forEach(([name, v]) => { all[name].data[t * n + j] = v; });
    }
  }
  const { h: states, c: cells, ...gates } = all;
  return { h: states, c: cells, gates };
}

// One layer of a GRU over the rows of x, gates stacked r, z, n as in PyTorch, from the state h on
// (1, n); backwards: from the last row to the first. Returns the states, a row a step.
function gru(x, { weight_ih, weight_hh, bias_ih, bias_hh }, { h = null, backwards = false } = {}) {
  const n = weight_hh.cols, input = linear(x, weight_ih, bias_ih), states = matrix(x.rows, n);
  let state = h ?? matrix(1, n);
  for (let i = 0; i < x.rows; i++) {
    const t = backwards ? x.rows - 1 - i : i, a = row(input, t), b = linear(state, weight_hh, bias_hh).data;
    state = each(state, (old, j) => {
      const r = sigmoid(a[j] + b[j]), z = sigmoid(a[n + j] + b[n + j]);
      return z * old + (1 - z) * Math.tanh(a[2 * n + j] + r * b[2 * n + j]);
    });
    states.data.set(state.data, t * n);
  }
  return states;
}

// The weights that a figure computes with: from its own state (a notebook), or on a page from the
// script that pages share, loaded when it is first wanted. Resolves to what unpackWeights gives.
const weightsOf = (() => {
  const loading = {};
  return (model) => {
    const name = model.get("weights_name"), own = model.get("weights");
    return loading[name] ??= own && own.byteLength
      ? Promise.resolve(unpackWeights({ shapes: model.get("weights_shapes"), bytes: own }))
      : new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = `${document.documentElement.dataset.content_root ?? ""}_static/weights/${name}.js`;
        script.onload = () => done(unpackWeights(globalThis.llmbookWeights[name]));
        script.onerror = () => { delete loading[name]; fail(new Error(`no weights at ${script.src}`)); };
        document.head.append(script);
      });
  };
})();

// A field for the reader's text, and a note below it: characters that the network has not are left out, and named.
// `input` gets the others, when there are two or more; `field.show(text)` writes a text that comes from elsewhere.
function textField(alphabet, input) {
  const note = h("span", { class: "left-out", "aria-live": "polite", style: "display:block;color:var(--soft)" });
  const tell = (text) => {
    note.textContent = text;
    note.style.paddingTop = text ? ".4rem" : "0";  // below the ring round a field that is being typed in
  };
  const node = h("input", { type: "text", maxlength: 120, "aria-label": "Your text", "data-name": "text",
    style: "width:100%;box-sizing:border-box;font:inherit;padding:.3rem .5rem;color:inherit;"
      + "background:var(--well);border:1px solid var(--line);border-radius:7px",
    oninput: () => {
      const all = [...node.value], text = all.filter((c) => alphabet.includes(c)).join("");
      const odd = [...new Set(all.filter((c) => !alphabet.includes(c)))].slice(0, 6).join(" ");
      tell((odd && `It does not know ${odd}, and leaves that out. `) + (text.length < 2 ? "It needs two characters." : ""));
      if (text.length >= 2) input(text);
    } });
  const show = (text) => {
    if (document.activeElement === node) return;
    node.value = text;
    tell("");
  };
  return { node: h("label", { style: "flex:1 1 100%" }, h("span", {}, "Your text"), node, note), show };
}
