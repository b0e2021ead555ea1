"""llmbook.recurrent equals torch.nn, forward and backward, on both backends; bad input is refused.

Equality is float64 to 1e-12; torch.nn is the oracle, and for the GRU of 2014, which torch lacks, a
loop written out here.
"""

import copy
import inspect
import math
import pickle

import pytest
import torch
from helpers.work import growth
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from llmbook.recurrent import (
    GRU,
    LSTM,
    RNN,
    gru_cell,
    linear_loop,
    linear_scan,
    lstm_cell,
    rnn_cell,
)

INPUTS, HIDDEN, BATCH, STEPS = 3, 5, 4, 7
LENGTHS = {"sorted": [7, 5, 5, 1], "unsorted": [1, 7, 3, 6]}
TOLERANCE = 1e-12

KINDS = {
    "rnn-tanh": (RNN, nn.RNN, {}),
    "rnn-relu": (RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, nn.LSTM, {}),
    "lstm-projected": (LSTM, nn.LSTM, {"proj_size": 2}),
    "gru": (GRU, nn.GRU, {}),
}
BACKENDS = ("reference", "fast")


def make_pair(kind, backend="auto", *, dtype=torch.float64, **options):
    """Our layer and torch's with the same weights, drawn by torch."""
    ours_class, torch_class, extra = KINDS[kind]
    torch.manual_seed(3)
    options = {"batch_first": True, **options}
    theirs = torch_class(INPUTS, HIDDEN, **extra, **options).to(dtype)
    ours = ours_class(INPUTS, HIDDEN, backend=backend, **extra, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def make_input(layout, dtype=torch.float64):
    """A leaf tensor and the function that packs it (or does not)."""
    torch.manual_seed(5)
    if layout == "unbatched":
        return torch.randn(STEPS, INPUTS, dtype=dtype, requires_grad=True), lambda x: x
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=dtype, requires_grad=True)
    if layout == "padded":
        return x, lambda x: x
    if layout == "steps first":
        return x, lambda x: x.transpose(0, 1)
    lengths = torch.tensor(LENGTHS[layout])
    ordered = layout == "sorted"
    return x, lambda x: pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)


def make_state(layer, layout, dtype=torch.float64):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (rows,) if layout == "unbatched" else (rows, BATCH)
    widths = (layer.proj_size or HIDDEN, HIDDEN)
    torch.manual_seed(7)
    state = [torch.randn(*shape, n, dtype=dtype, requires_grad=True) for n in widths]
    return tuple(state) if layer.mode == "LSTM" else state[0]


def flatten(result):
    output, state = result
    data = output.data if isinstance(output, PackedSequence) else output
    return [data, *(state if isinstance(state, tuple) else (state,))]


def run(layer, layout, with_state, dtype=torch.float64):
    """Outputs, then the gradients of every input, state and parameter."""
    x, pack = make_input(layout, dtype)
    state = make_state(layer, layout, dtype) if with_state else None
    tensors = flatten(layer(pack(x), state))
    torch.manual_seed(11)
    loss = sum((t * torch.randn(t.shape, dtype=dtype)).sum() for t in tensors)
    states = [] if state is None else [*state] if isinstance(state, tuple) else [state]
    return tensors, torch.autograd.grad(loss, [x, *states, *layer.parameters()])


def assert_equal(got, want, tolerance=TOLERANCE):
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        torch.testing.assert_close(g, w, rtol=0, atol=tolerance)


# --- equality with torch


# Layers, both directions, biases, initial states: every two values of any two stand together.
FORMS = (
    (1, False, False, False),
    (1, True, True, True),
    (2, False, True, False),
    (2, True, False, True),
    (3, False, True, True),
    (3, True, False, False),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["padded", "sorted", "unsorted", "unbatched", "steps first"])
def test_outputs_and_gradients_equal_torch(kind, layout):
    for layers, two_ways, bias, with_state in FORMS:
        options = {"num_layers": layers, "bidirectional": two_ways, "bias": bias}
        options["batch_first"] = layout != "steps first"
        reference, theirs = make_pair(kind, "reference", **options)
        fast, _ = make_pair(kind, "fast", **options)
        want, want_grads = run(theirs, layout, with_state)
        for ours, backend in ((reference, "reference"), (fast, "fast")):
            assert ours.backend_for() == backend
            got, got_grads = run(ours, layout, with_state)
            assert_equal(got, want)
            assert_equal(got_grads, want_grads)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["sorted", "unsorted"])
def test_packed_output_unpacks_like_torchs(kind, layout, backend):
    ours, theirs = make_pair(kind, backend, bidirectional=True)
    x, pack = make_input(layout)
    got, want = ours(pack(x))[0], theirs(pack(x))[0]
    assert isinstance(got, PackedSequence)
    for g, w in zip(got, want, strict=True):
        assert (g is None and w is None) or torch.allclose(g, w, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_sequence_gives_what_it_gives_alone(kind):
    ours, _ = make_pair(kind, "reference", num_layers=2, bidirectional=True)
    x, _ = make_input("padded")
    alone = [x[k, :n] for k, n in enumerate(LENGTHS["unsorted"])]
    output, state = ours(pack_sequence(alone, enforce_sorted=False))
    last = state if isinstance(state, tuple) else (state,)
    for k, sequence in enumerate(alone):
        want, want_state = ours(sequence)
        want_last = want_state if isinstance(want_state, tuple) else (want_state,)
        padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
        assert_equal([padded[k, : len(sequence)]], [want])
        assert_equal([s[:, k] for s in last], want_last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["padded", "sorted"])
def test_dropout_between_layers_draws_torchs_masks(kind, layout, backend):
    ours, theirs = make_pair(kind, backend, num_layers=3, dropout=0.4, bidirectional=True)
    x, pack = make_input(layout)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(13)
        results.append(flatten(layer(pack(x))))
    assert_equal(*results)
    ours.eval(), theirs.eval()
    assert_equal(flatten(ours(pack(x))), flatten(theirs(pack(x))))
    assert (results[0][0] - flatten(ours(pack(x)))[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_float32_on_both_backends_stays_near_float64(kind):
    for backend in BACKENDS:
        exact, _ = make_pair(kind, backend, num_layers=2, bidirectional=True)
        single = copy.deepcopy(exact).float()
        x, _ = make_input("padded")
        assert_equal(flatten(single(x.float())), [t.float() for t in flatten(exact(x))], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_bfloat16_errs_at_most_twice_as_much_as_the_plain_formula(kind):
    exact, _ = make_pair(kind, "reference", num_layers=2, dtype=torch.bfloat16)
    plain, fast = copy.deepcopy(exact), copy.deepcopy(exact)
    fast.backend = "fast"
    x = torch.randn(8, 33, INPUTS).bfloat16()
    truth = exact.double()(x.double())[0]
    errors = [(layer(x)[0].double() - truth).norm() for layer in (fast, plain)]
    assert 0 < errors[0] <= 2 * errors[1]


# --- one state dict, one seed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_moves_both_ways_and_one_seed_gives_torchs_weights(kind, bias):
    ours_class, torch_class, extra = KINDS[kind]
    options = {"num_layers": 2, "bidirectional": True, "bias": bias, **extra}
    torch.manual_seed(17)
    ours = ours_class(INPUTS, HIDDEN, **options)
    torch.manual_seed(17)
    theirs = torch_class(INPUTS, HIDDEN, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    theirs.load_state_dict({k: v + 1 for k, v in ours.state_dict().items()}, strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours.weight_hh_l1_reverse, theirs.weight_hh_l1_reverse)


@pytest.mark.parametrize("backend", BACKENDS)
def test_copied_pickled_and_functional_layers_compute_the_same(backend):
    ours, theirs = make_pair("lstm", backend, num_layers=2)
    x, _ = make_input("padded")
    want = theirs(x)[0]
    assert_equal([copy.deepcopy(ours)(x)[0], pickle.loads(pickle.dumps(ours))(x)[0]], [want] * 2)
    blank = LSTM(INPUTS, HIDDEN, num_layers=2, backend=backend).double()
    got = torch.func.functional_call(blank, dict(theirs.named_parameters()), (x,))[0]
    assert_equal([got], [want])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_gives_an_empty_output(kind, backend):
    ours, theirs = make_pair(kind, backend, num_layers=2, dtype=torch.float32)
    x = torch.zeros(0, STEPS, INPUTS)
    assert [t.shape for t in flatten(ours(x))] == [t.shape for t in flatten(theirs(x))]


# --- cells, GRU 2014


def test_cells_equal_torchs_cells():
    torch.manual_seed(19)
    x, h, c = (torch.randn(BATCH, n, dtype=torch.float64) for n in (INPUTS, HIDDEN, HIDDEN))
    for torch_cell, ours in [
        (nn.RNNCell(INPUTS, HIDDEN), lambda w: rnn_cell(x, h, *w)),
        (nn.RNNCell(INPUTS, HIDDEN, nonlinearity="relu"), lambda w: rnn_cell(x, h, *w, "relu")),
        (nn.GRUCell(INPUTS, HIDDEN), lambda w: gru_cell(x, h, *w)),
        (nn.GRUCell(INPUTS, HIDDEN, bias=False), lambda w: gru_cell(x, h, *w)),
    ]:
        torch_cell = torch_cell.double()
        assert_equal([ours([*torch_cell.parameters()])], [torch_cell(x, h)])
    lstm = nn.LSTMCell(INPUTS, HIDDEN).double()
    assert_equal(lstm_cell(x, h, c, *lstm.parameters()), lstm(x, (h, c)))


def gru_2014_by_hand(x, layer):
    """r before the product, one gate at a time."""
    w, u = layer.weight_ih_l0.split(HIDDEN), layer.weight_hh_l0.split(HIDDEN)
    b, d = layer.bias_ih_l0.split(HIDDEN), layer.bias_hh_l0.split(HIDDEN)
    h, outputs = torch.zeros(len(x), HIDDEN, dtype=x.dtype), []
    for t in range(x.shape[1]):
        r = 1 / (1 + torch.exp(-(x[:, t] @ w[0].T + b[0] + h @ u[0].T + d[0])))
        z = 1 / (1 + torch.exp(-(x[:, t] @ w[1].T + b[1] + h @ u[1].T + d[1])))
        n = torch.tanh(x[:, t] @ w[2].T + b[2] + (r * h) @ u[2].T + d[2])
        h = z * h + (1 - z) * n
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def test_gru_with_reset_before_the_product_is_the_papers_and_not_torchs():
    torch.manual_seed(23)
    papers = GRU(INPUTS, HIDDEN, reset_after=False).double()
    torchs = GRU(INPUTS, HIDDEN).double()
    torchs.load_state_dict(papers.state_dict(), strict=True)
    x, _ = make_input("padded")
    assert_equal([papers(x)[0]], [gru_2014_by_hand(x, papers)])
    assert (papers(x)[0] - torchs(x)[0]).abs().max() > 1e-3
    unbiased = GRU(INPUTS, HIDDEN, bias=False, reset_after=False).double()
    for name, weight in unbiased.named_parameters():
        weight.data.copy_(papers.state_dict()[name])
    papers.bias_ih_l0.data.zero_(), papers.bias_hh_l0.data.zero_()
    assert_equal([unbiased(x)[0]], [papers(x)[0]])


# --- which backend, and why


def test_auto_takes_fast_and_the_2014_gru_falls_to_the_reference():
    assert LSTM(3, 5).backend_for() == "fast"
    papers = GRU(3, 5, reset_after=False)
    assert papers.backend_for() == "reference"
    assert "reset_after=False" in papers.explain_backend()
    with pytest.raises(ValueError, match="backend='fast' cannot run this layer.*reset_after"):
        GRU(3, 5, reset_after=False, backend="fast")
    papers.backend = "fast"
    with pytest.raises(ValueError, match="cannot run"):
        papers(torch.zeros(1, 2, 3))


@pytest.mark.parametrize("kind", ["lstm", "lstm-projected", "gru"])
@pytest.mark.parametrize("backend", ["reference", "fast"])
@pytest.mark.parametrize("layout", ["padded", "sorted"])
def test_the_backend_that_explain_names_is_the_one_that_ran(kind, backend, layout):
    ours, _ = make_pair(kind, backend, dtype=torch.float32)
    x, pack = make_input(layout, torch.float32)
    with torch.profiler.profile(acc_events=True) as profile:
        ours(pack(x))
    ran = {event.key for event in profile.key_averages()}
    told = ours.explain_backend(pack(x))
    assert told.startswith(backend)
    assert (f"aten::{kind.split('-')[0]}" in ran) == (backend == "fast")
    assert ("aten::mkldnn_rnn_layer" in ran) == ("oneDNN" in told)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error:RNN module weights")  # cuDNN wants them in one block
def test_on_a_gpu_both_backends_equal_the_cpu(kind, backend):
    on_cpu, _ = make_pair(kind, "reference", num_layers=2, bidirectional=True)
    on_gpu = copy.deepcopy(on_cpu).cuda()
    on_gpu.backend = backend
    x, _ = make_input("padded")
    got = [t.cpu() for t in flatten(on_gpu(x.cuda()))]
    assert_equal(got, flatten(on_cpu(x)), 1e-10)


def test_under_cpu_autocast_auto_still_runs():
    layer = LSTM(3, 5)
    x = torch.randn(2, 7, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.backend_for() == "reference"
        got = layer(x)[0]
    torch.testing.assert_close(got.float(), layer(x)[0], rtol=0, atol=0.05)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be a whole number of at least 1: got 0"),
        ({"hidden_size": -3}, ValueError, "hidden_size must be .* at least 1: got -3"),
        ({"num_layers": 0}, ValueError, "num_layers must be .* at least 1: got 0"),
        ({"num_layers": 1.5}, TypeError, "num_layers must be a whole number .*: got 1.5"),
        ({"hidden_size": True}, TypeError, "hidden_size must be a whole number .*: got True"),
        ({"dropout": 1.1}, ValueError, "dropout must be a number from 0 to 1: got 1.1"),
        ({"dropout": float("nan")}, ValueError, "dropout must be .* got nan"),
        ({"dropout": "half"}, TypeError, "dropout must be .* got 'half'"),
        ({"bias": 1}, TypeError, "bias must be True or False: got 1"),
        ({"bidirectional": 2}, TypeError, "bidirectional must be True or False: got 2"),
        ({"batch_first": None}, TypeError, "batch_first must be True or False: got None"),
        (
            {"backend": "cuda"},
            ValueError,
            "backend must be one of auto, reference, fast: got 'cuda'",
        ),
    ],
)
@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
def test_a_bad_argument_is_named(layer, arguments, error, message):
    with pytest.raises(error, match=message):
        layer(**{"input_size": 3, "hidden_size": 5, **arguments})


def test_an_unknown_nonlinearity_is_named():
    with pytest.raises(ValueError, match="nonlinearity must be one of tanh, relu: got 'gelu'"):
        RNN(3, 5, nonlinearity="gelu")
    with pytest.raises(ValueError, match="nonlinearity must be one of tanh, relu"):
        rnn_cell(torch.zeros(1, 3), torch.zeros(1, 5), *RNN(3, 5).all_weights[0], "gelu")


def test_a_projection_must_make_the_state_smaller():
    for bad in (5, 6, -1):
        with pytest.raises(ValueError, match=f"proj_size must be .* from 0 to 4: got {bad}"):
            LSTM(3, 5, proj_size=bad)
    layer, x = LSTM(3, 5, proj_size=2), torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"h_0 must be .* = \(1, 2, 2\): got \(1, 2, 5\)"):
        layer(x, (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))


def test_steps_come_first_only_where_asked_for():
    layer = RNN(3, 5, batch_first=False)
    with pytest.raises(ValueError, match=r"\(steps, batch, features\).* got \(3,\)"):
        layer(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one step"):
        layer(torch.zeros(0, 2, 3))
    assert layer(torch.zeros(4, 0, 3))[0].shape == (4, 0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_made_on_a_device_in_a_dtype(kind):
    ours_class, torch_class, extra = KINDS[kind]
    how = {"device": "meta", "dtype": torch.float64}
    ours, theirs = (cls(INPUTS, HIDDEN, **extra, **how) for cls in (ours_class, torch_class))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.device, p.dtype, p.shape) == (q.device, q.dtype, q.shape)
    assert next(ours.parameters()).dtype == torch.float64 and next(ours.parameters()).is_meta


def test_every_argument_of_torchs_layers_is_one_of_ours():
    torchs = {"input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"}
    torchs |= {"bidirectional", "device", "dtype"}
    for cls, more in ((RNN, {"nonlinearity"}), (LSTM, {"proj_size"}), (GRU, set())):
        assert torchs | more <= set(inspect.signature(cls).parameters)


def bad_inputs():
    x, h = torch.zeros(2, 4, 3), torch.zeros(1, 2, 5)
    packed = pack_sequence([torch.zeros(4, 2)])
    yield "features", (torch.zeros(2, 4, 6),), ValueError, r"input_size=3 .* got 6 in shape"
    yield "packed features", (packed,), ValueError, "input_size=3 .* got 2"
    yield "dimensions", (torch.zeros(3),), ValueError, r"\(batch, steps, features\).* got \(3,\)"
    yield "too many", (torch.zeros(1, 2, 4, 3),), ValueError, r"got \(1, 2, 4, 3\)"
    yield "no steps", (torch.zeros(2, 0, 3),), ValueError, "at least one step"
    yield "no steps, unbatched", (torch.zeros(0, 3),), ValueError, "at least one step"
    yield "token ids", (torch.ones(2, 4, 3, dtype=torch.int64),), TypeError, "torch.int64; embed"
    yield "dtype", (x.double(),), TypeError, "got torch.float64, expected torch.float32"
    yield "device", (x.to("meta"),), ValueError, "got meta, expected cpu"
    yield "a list", ([[1.0]],), TypeError, "must be a tensor or PackedSequence"
    yield "h_0 batch", (x, torch.zeros(1, 3, 5)), ValueError, r"= \(1, 2, 5\): got \(1, 3, 5\)"
    yield "h_0 axes", (x, torch.zeros(1, 5)), ValueError, r"h_0 must be .* got \(1, 5\)"
    yield "h_0 for one", (x[0], h), ValueError, r"\(layers \* directions, hidden\) = \(1, 5\)"
    yield "h_0 dtype", (x, h.double()), TypeError, "h_0 must have the layer's dtype"
    yield "h_0 device", (x, h.to("meta")), ValueError, "h_0 must be on .* got meta"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [*bad_inputs()], ids=lambda case: case[0])
def test_bad_input_is_named(case, backend):
    _, arguments, error, message = case
    for layer in (RNN(3, 5, backend=backend), GRU(3, 5, backend=backend)):
        with pytest.raises(error, match=message):
            layer(*arguments)


def test_an_lstm_wants_both_states():
    x, h = torch.zeros(2, 4, 3), torch.zeros(1, 2, 5)
    for wrong in (h, (h,), (h, h, h)):
        with pytest.raises(TypeError, match=r"hx must be a pair \(h_0, c_0\)"):
            LSTM(3, 5)(x, wrong)
    with pytest.raises(ValueError, match="c_0 must be"):
        LSTM(3, 5)(x, (h, h[:, :1]))
    with pytest.raises(TypeError, match="h_0 must be a tensor: got .*NoneType"):
        LSTM(3, 5)(x, (None, h))


# --- linear scan


@pytest.mark.parametrize("steps", [1, 2, 3, 63, 64, 65, 1000])
@pytest.mark.parametrize("with_h0", [False, True])
def test_scan_equals_loop_in_log2_rounds(steps, with_h0):
    torch.manual_seed(29)
    a = torch.rand(2, steps, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, steps, 3, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(2, 3, dtype=torch.float64, requires_grad=True) if with_h0 else None
    scan, loop = linear_scan(a, b, h0), linear_loop(a, b, h0)
    assert (scan.rounds, loop.rounds) == (math.ceil(math.log2(steps)), steps)
    weight, leaves = torch.randn_like(b), [a, b] + ([h0] if with_h0 else [])
    assert_equal([scan.states], [loop.states])
    losses = [(s.states * weight).sum() for s in (scan, loop)]
    assert_equal(*(torch.autograd.grad(v, leaves, materialize_grads=True) for v in losses))


def test_loop_is_the_recurrence():
    a, b = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([1.0, 2.0, 3.0])
    assert linear_loop(a, b, torch.tensor(4.0), dim=0).states.tolist() == [3.0, 8.0, -5.0]
    assert linear_scan(a, b, torch.tensor(4.0), dim=0).states.tolist() == [3.0, 8.0, -5.0]
    assert linear_scan(a, b, dim=0).states.tolist() == [1.0, 4.0, -1.0]


def test_scan_broadcasts_and_takes_any_axis():
    torch.manual_seed(31)
    a, b = torch.rand(9, 1, dtype=torch.float64), torch.randn(2, 9, 5, dtype=torch.float64)
    want = linear_loop(a.expand(2, 9, 5), b).states
    assert_equal([linear_scan(a, b).states, linear_scan(a, b, dim=-2).states], [want, want])
    turned = linear_scan(a.T.expand(2, 5, 9), b.transpose(1, 2), dim=2).states
    assert_equal([turned.transpose(1, 2)], [want])


def test_half_precision_is_scanned_in_float32():
    torch.manual_seed(37)
    a, b = torch.rand(1, 1000, 4) * 0.01 + 0.99, torch.randn(1, 1000, 4)
    a, b = a.bfloat16(), b.bfloat16()
    got, want = linear_scan(a, b).states, linear_loop(a.double(), b.double()).states
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-3)  # only the last rounding


def test_min_gru_by_scan_equals_its_loop():
    torch.manual_seed(41)
    x = torch.randn(2, 77, 3, dtype=torch.float64)
    gate, candidate = (nn.Linear(3, 5, dtype=torch.float64) for _ in range(2))
    z, n = gate(x).sigmoid(), candidate(x)
    h, states = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(77):
        h = (1 - z[:, t]) * h + z[:, t] * n[:, t]
        states.append(h)
    scan = linear_scan(1 - z, z * n)
    assert scan.rounds == 7
    assert_equal([scan.states], [torch.stack(states, dim=1)])


@pytest.mark.parametrize("solve", [linear_scan, linear_loop])
def test_scan_names_what_is_wrong(solve):
    a = torch.ones(2, 4, 3)
    with pytest.raises(ValueError, match="must broadcast .* got .2, 4, 3. and .2, 5, 3."):
        solve(a, torch.ones(2, 5, 3))
    with pytest.raises(ValueError, match="dim must be an axis .* got dim=1"):
        solve(torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="at least one step"):
        solve(a[:, :0], a[:, :0])
    with pytest.raises(ValueError, match="h0 must have .* got .3,."):
        solve(a, a, torch.ones(3))
    with pytest.raises(TypeError, match="b must be a floating point tensor: got torch.int64"):
        solve(a, a.long())


def test_twice_the_steps_are_twice_the_work_forward_and_backward():
    lstm = LSTM(4, 3, backend="reference")
    two = lambda times: [(1, 200 * times, 4)] * 2
    assert growth(lambda a, b: linear_loop(a, b).states, two) < 2.2
    assert growth(lambda x: lstm(x)[0], lambda times: [(1, 200 * times, 4)]) < 2.2
