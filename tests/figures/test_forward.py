"""The engine in the page: every layer equals PyTorch's on the same rounded weights."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.book import report
from llmbook.figures import forward
from llmbook.layers import rms_norm
from llmbook.positions import Rotary, alibi_bias

ENGINE = forward._HERE / "forward.js"
NEAR = {"rtol": 0, "atol": 1e-3}


def rounded(*shape, seed=0):
    """Random weights as they are after packing."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g).half().double()


def run(expression, weights, **inputs):
    """The value of an expression in Node, weights unpacked as `w` and inputs as matrices."""
    if shutil.which("node") is None:
        pytest.skip("Node is missing: apt-get install nodejs")
    shapes, packed = forward.pack(weights)
    given = {
        name: {"rows": x.shape[0], "cols": x.shape[1], "data": x.flatten().tolist()}
        for name, x in inputs.items()
    }
    encoded = base64.b64encode(packed).decode()
    shapes = json.loads(json.dumps(shapes, sort_keys=True))  # as a notebook's file keeps them
    program = ENGINE.read_text("utf-8") + (
        f"\nconst w = unpackWeights({json.dumps({'shapes': shapes, 'bytes': encoded})});"
        f"\nconst given = {json.dumps(given)}, {{ {', '.join(given) or '_'} }} = given;"
        "\nfor (const one of Object.values(given)) one.data = Float64Array.from(one.data);"
        f"\nconst shown = (x) => x?.data ? {{ rows: x.rows, cols: x.cols, data: [...x.data] }}"
        " : Array.isArray(x) ? x.map(shown) : x && typeof x === 'object'"
        " ? Object.fromEntries(Object.entries(x).map(([k, v]) => [k, shown(v)])) : x;"
        f"\nconsole.log(JSON.stringify(shown({expression})));"
    )
    done = subprocess.run(
        ["node", "-"], input=program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tensors(json.loads(done.stdout))


def tensors(value):
    if isinstance(value, dict) and set(value) == {"rows", "cols", "data"}:
        return torch.tensor(value["data"], dtype=torch.float64).view(value["rows"], value["cols"])
    return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else value


def close(got, want):
    torch.testing.assert_close(got, want.double(), **NEAR)


def test_packed_weights_come_back_as_float16_rounds_them():
    extremes = torch.tensor([[0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 1e-5, 0.1, 1 / 3]])
    close(run("w.x", {"x": extremes}), extremes.half())
    shapes, packed = forward.pack({"a": np.zeros((2, 3)), "b": torch.ones(4)})
    assert shapes == {"a": [2, 3], "b": [4]} and len(packed) == 2 * 10
    z, a = torch.ones(1, 2), torch.zeros(1, 2)
    close(run("w.z", {"z": z, "a": a}), z)  # whatever order they are given in
    with pytest.raises(ValueError, match="big has values"):
        forward.pack({"big": torch.tensor([1e6])})


def test_linear_embedding_and_norms():
    w = {
        "W": rounded(7, 5),
        "b": rounded(7, seed=1),
        "g": rounded(5, seed=2),
        "s": rounded(5, seed=3),
    }
    x = rounded(3, 5, seed=4)
    close(run("linear(x, w.W, w.b)", w, x=x), F.linear(x, w["W"], w["b"]))
    close(run("layerNorm(x, w.g, w.s)", w, x=x), F.layer_norm(x, (5,), w["g"], w["s"]))
    want = rms_norm(x, w["g"], eps=1e-6)
    close(run("rmsNorm(x, w.g)", w, x=x), want)
    close(run("embedding([4, 0, 4], w.W)", w), w["W"][[4, 0, 4]])


@pytest.mark.parametrize("name, torch_s", [("gelu", F.gelu), ("silu", F.silu), ("relu", F.relu)])
def test_activations(name, torch_s):
    x = torch.linspace(-7, 7, 141, dtype=torch.float64)[None]
    torch.testing.assert_close(run(f"{name}(x)", {}, x=x), torch_s(x), rtol=0, atol=1e-9)


def test_gelu_with_tanh_and_both_feed_forward_networks():
    w = {"up": rounded(9, 4), "gate": rounded(9, 4, seed=1), "down": rounded(4, 9, seed=2)}
    x = rounded(3, 4, seed=3)
    close(run("geluTanh(x)", {}, x=x), F.gelu(x, approximate="tanh"))
    want = F.linear(F.gelu(F.linear(x, w["up"])), w["down"])
    close(run("feedForward(x, w)", w, x=x), want)
    gated = F.linear(F.silu(F.linear(x, w["gate"])) * F.linear(x, w["up"]), w["down"])
    close(run("gatedFeedForward(x, w)", w, x=x), gated)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries, keys", [(5, 5), (2, 5)])
@pytest.mark.parametrize("layout", [None, "half", "interleaved"])
def test_attention_with_shared_keys_rotation_and_bias(causal, queries, keys, layout):
    heads, kv_heads, d = 4, 2, 6
    q, k, v = (
        rounded(queries, heads * d),
        rounded(keys, kv_heads * d, seed=1),
        rounded(keys, kv_heads * d, seed=2),
    )
    Q, K, V = (x.view(len(x), -1, d).transpose(0, 1) for x in (q, k, v))
    if layout:
        turn = Rotary(d, base=100.0, layout=layout)
        where = torch.arange(keys)
        Q, K = turn.rotate(Q, where[-queries:]), turn.rotate(K, where)
    bias = alibi_bias(heads, queries, keys)[0].double()
    scores = Q @ K.repeat_interleave(2, 0).transpose(1, 2) / d**0.5 + bias
    if causal:
        later = torch.ones(queries, keys).triu(keys - queries + 1).bool()
        scores = scores.masked_fill(later, -torch.inf)
    share = scores.softmax(-1)
    want = (share @ V.repeat_interleave(2, 0)).transpose(0, 1).flatten(1)
    rotary = f"{{ base: 100, layout: {json.dumps(layout)} }}" if layout else "null"
    got = run(
        f"attention(q, k, v, {{ heads: 4, kvHeads: 2, causal: {json.dumps(causal)}, "
        f"rotary: {rotary}, "
        "bias: (h, i, j) => -(2 ** (-2 * (h + 1))) * Math.abs(j - i - (k.rows - q.rows)) })",
        {},
        q=q,
        k=k,
        v=v,
    )
    close(got["out"], want)
    torch.testing.assert_close(torch.tensor(got["weights"]).double(), share.double(), **NEAR)


def test_lstm_states_cells_and_gates_and_a_state_carried_over():
    layer = torch.nn.LSTM(3, 5, batch_first=True).double()
    weights = {k.removesuffix("_l0"): v.detach().half() for k, v in layer.state_dict().items()}
    layer.load_state_dict({f"{k}_l0": v.double() for k, v in weights.items()})
    x = rounded(8, 3, seed=5)
    with torch.no_grad():
        want, (_, cell) = layer(x[None])
    got = run("lstm(x, w)", weights, x=x)
    close(got["h"], want[0])
    close(got["c"][-1:], cell[0])
    assert all((got["gates"][gate].abs() <= 1).all() for gate in "ifgo")
    halves = (
        "(() => { const part = (a, b) =>"
        " matrix(b - a, x.cols, x.data.slice(a * x.cols, b * x.cols));"
        " const one = lstm(part(0, 3), w);"
        " return lstm(part(3, 8), w, { h: row(one.h, 2), c: row(one.c, 2) }); })()"
    )
    close(run(halves, weights, x=x)["h"], want[0, 3:])


def test_gru_states_forwards_backwards_and_from_a_state():
    layer = torch.nn.GRU(3, 5, batch_first=True, bidirectional=True).double()
    weights = {k: v.detach().half() for k, v in layer.state_dict().items()}
    layer.load_state_dict({k: v.double() for k, v in weights.items()})
    x, h = rounded(7, 3, seed=5), rounded(2, 5, seed=6)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    with torch.no_grad():
        want, started = layer(x[None])[0][0], layer(x[None], h[:, None])[0][0]
    for tail, side, way in (("_l0", 0, "false"), ("_l0_reverse", 1, "true")):
        held = {name: weights[name + tail] for name in names}
        columns = slice(5 * side, 5 * side + 5)
        close(run(f"gru(x, w, {{ backwards: {way} }})", held, x=x), want[:, columns])
        got = run(f"gru(x, w, {{ h, backwards: {way} }})", held, x=x, h=h[side : side + 1])
        close(got, started[:, columns])


@pytest.mark.parametrize("held", [{"f": 0.5}, {"i": 0.0, "o": 1.0}, {"h": 0}])
def test_a_held_gate_acts_from_the_second_step_on(held):
    layer = torch.nn.LSTM(3, 5, batch_first=True).double()
    weights = {k.removesuffix("_l0"): v.detach().half() for k, v in layer.state_dict().items()}
    W, U, b, d = (weights[k].double() for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    x, h, c, want = rounded(6, 3, seed=6), torch.zeros(5).double(), torch.zeros(5).double(), []
    for t, row in enumerate(x):
        z = W @ row + U @ (torch.zeros(5).double() if t and "h" in held else h) + b + d
        i, f, g, o = (v.tanh() if n == 2 else v.sigmoid() for n, v in enumerate(z.chunk(4)))
        now = {"i": i, "f": f, "o": o} | (held if t else {})
        c = now["f"] * c + now["i"] * g
        h = now["o"] * c.tanh()
        want.append(h)
    got = run(f"lstm(x, w, null, {json.dumps(held)})", weights, x=x)
    close(got["h"], torch.stack(want))


@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_a_plain_rnn_forwards_and_back(gain):
    layer = torch.nn.RNN(3, 5, batch_first=True).double()
    weights = {k.removesuffix("_l0"): v.detach().half() for k, v in layer.state_dict().items()}
    W, U, b, d = (weights[k].double() for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    x, last, states = rounded(7, 3, seed=5), rounded(1, 5, seed=6), []
    h = torch.zeros(5).double()
    for row in x:
        h = torch.tanh(W @ row + b + gain * U @ h + d).requires_grad_()
        h.retain_grad()
        states.append(h)
    (h * last[0]).sum().backward()
    close(run(f"rnn(x, w, {gain})", weights, x=x), torch.stack(states).detach())
    back = f"rnnBackward(rnn(x, w, {gain}), w, last.data, {gain})"
    close(run(back, weights, x=x, last=last), torch.stack([h.grad for h in states]))


# --- in a page

READER = """function render({ model, el }) {
  const ui = frame(model, el, "A model in the page");
  const x = matrix(2, 3, Float64Array.from([1, -1, 0.5, 2, 0, -0.25]));
  weightsOf(model).then((w) => {
    ui.body.append(h("p", { class: "result" }, [...linear(x, w.W, w.b).data].join(" ")));
  }).catch((error) => { ui.body.append(h("p", { class: "result" }, String(error))); });
}
export default { render };
"""


@pytest.mark.browser
def test_weights_come_from_the_state_in_a_notebook_and_from_the_shared_script_on_a_page(
    browser, tmp_path
):
    x = torch.tensor([[1, -1, 0.5], [2, 0, -0.25]])
    weights = {"W": torch.randn(4, 3), "b": torch.randn(4)}
    shapes, packed = forward.pack(weights)
    want = F.linear(x, weights["W"].half().float(), weights["b"].half().float()).flatten()
    common = (forward._HERE / "common.js").read_text("utf-8")
    source = ENGINE.read_text("utf-8") + common + READER
    (tmp_path / "_static/weights").mkdir(parents=True)
    (tmp_path / "_static/weights/tiny.js").write_text(forward.page_script("tiny", shapes, packed))
    draw = """async ({ source, state, bytes }) => {
      const get = (name) => name === 'weights' ? (bytes
        ? new DataView(Uint8Array.from(atob(bytes), c => c.charCodeAt(0)).buffer)
        : null) : state[name];
      const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
      const module = await import(url);
      document.body.replaceChildren();
      module.default.render({ model: { get, set() {}, on() {}, off() {}, save_changes() {} },
        el: document.body });
    }"""
    (tmp_path / "page.html").write_text(
        "<!doctype html><html data-content_root='./'><body></body>"
    )
    state = {"alt": "a", "name": "n", "weights_name": "tiny", "weights_shapes": shapes}
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())  # from a disk: nothing may be fetched
    for carried in (base64.b64encode(packed).decode(), None):
        page.evaluate(draw, {"source": source, "state": state, "bytes": carried})
        page.locator(".result").wait_for()
        got = [float(v) for v in page.locator(".result").inner_text().split()]
        np.testing.assert_allclose(got, want, atol=1e-3)
    page.evaluate(
        draw, {"source": source, "state": state | {"weights_name": "gone"}, "bytes": None}
    )
    page.get_by_text("no weights at").wait_for()
    page.close()


def test_weights_leave_the_page_s_own_state_and_are_shared(tmp_path):
    shapes, packed = forward.pack({"W": torch.randn(4, 3)})
    held = base64.b64encode(packed).decode()
    views = {
        "one": {
            "state": {"weights_name": "tiny", "weights_shapes": shapes, "alt": "a"},
            "buffers": [
                {"encoding": "base64", "path": ["weights"], "data": held},
                {"encoding": "base64", "path": ["other"], "data": "AA=="},
            ],
        },
        "two": {"state": {"alt": "b"}, "buffers": []},
    }
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": views}}
    notebook = {"cells": [], "metadata": {"widgets": widgets}}
    assert report.shared_weights(notebook) == {"tiny": (shapes, held)}
    page = json.loads(report.page_source(notebook))
    (kept,) = page["metadata"]["widgets"].values()
    assert [b["path"] for b in kept["state"]["one"]["buffers"]] == [["other"]]
    assert held not in json.dumps(page) and report.shared_weights(notebook)  # as it was
