"""The mixture-of-experts layer: every backend against a token loop, balance, bad input."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from llmbook.layers import ACTIVATIONS, FeedForward, GatedFeedForward
from llmbook.moe import (
    BACKENDS,
    FORMS,
    Experts,
    MoE,
    MoEConfig,
    balance_loss,
    bias_step,
    choose_tokens,
    collect_routings,
    experts_read,
    explain_backend,
    limit_capacity,
    load,
    pooled_balance_loss,
    route,
    run_experts,
    z_loss,
)
from llmbook.moe import compiled as compiled_module
from llmbook.moe import sorted as sorted_module

FAST = ("sorted", "grouped")
needs_compiled = pytest.mark.skipif(
    compiled_module.why_not() is not None, reason=f"{compiled_module.why_not()}"
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def token_by_token(x, chosen, weights, in_weight, down_weight, activation, on_input):
    """The definition: one token, one expert, one dot product after the other."""
    gated = in_weight.shape[1] == 2 * down_weight.shape[2]
    rows = []
    for n in range(len(x)):
        total = torch.zeros_like(x[n])
        for e, w in zip(chosen[n].tolist(), weights[n]):
            if e < 0:
                continue
            hidden = in_weight[e] @ (x[n] * w if on_input else x[n])
            if gated:
                gate, up = hidden.chunk(2)
                hidden = ACTIVATIONS[activation](gate) * up
            else:
                hidden = ACTIVATIONS[activation](hidden)
            answer = down_weight[e] @ hidden
            total = total + (answer if on_input else w * answer)
        rows.append(total)
    return torch.stack(rows) if rows else x * 0.0


def make(n, k, n_experts, d=8, f=12, gated=True, dtype=torch.float64, only=None):
    """Random inputs of `run_experts`; only: the experts that tokens may choose."""
    pool = torch.tensor(only if only is not None else range(n_experts))
    picks = [pool[torch.randperm(len(pool))[:k]] for _ in range(n)]
    chosen = torch.stack(picks) if n else torch.empty(0, k, dtype=torch.int64)
    x, weights = torch.randn(n, d), torch.rand(n, k)
    in_weight = torch.randn(n_experts, (1 + gated) * f, d) / math.sqrt(d)
    down_weight = torch.randn(n_experts, d, f) / math.sqrt(f)
    leaves = [t.to(dtype).requires_grad_() for t in (x, weights, in_weight, down_weight)]
    return chosen, leaves


def outcome(run, leaves, upstream):
    out = run()
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def through(backend, chosen, leaves, upstream, on_input=False):
    """`outcome` of `run_experts`: the output, and every gradient."""
    x, weights, *stacks = leaves
    run = lambda: run_experts(x, chosen, weights, *stacks, on_input=on_input, backend=backend)
    return outcome(run, leaves, upstream)


# name: (tokens, k, experts, further arguments)
CASES = {
    "ordinary": (63, 2, 8, {}),
    "one expert": (7, 1, 1, {}),
    "every expert": (5, 4, 4, {}),
    "empty experts": (31, 2, 16, {"only": [3, 4, 9]}),
    "all to one": (77, 1, 4, {"only": [2]}),
    "one token": (1, 2, 64, {}),
    "no tokens": (0, 2, 4, {}),
    "not gated": (40, 2, 4, {"gated": False}),
}


@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_reference_and_sorted_equal_the_token_loop_with_every_gradient(
    case, on_input, monkeypatch
):
    n, k, n_experts, extra = CASES[case]
    monkeypatch.setattr(sorted_module, "CPU_ROWS", 16)  # several blocks an expert
    monkeypatch.setattr(sorted_module, "CPU_BENT", 5)  # several pieces a block
    monkeypatch.setattr(sorted_module, "CPU_JOINED", 40)  # several groups of several blocks
    chosen, leaves = make(n, k, n_experts, **extra)
    if n > 3:
        chosen[3, 0] = -1  # a dropped slot
        chosen[1] = -1  # a token with nothing at all
    upstream = torch.randn_like(leaves[0])
    x, weights, in_weight, down_weight = leaves
    truth = (
        outcome(
            lambda: token_by_token(x, chosen, weights, in_weight, down_weight, "silu", on_input),
            leaves,
            upstream,
        )
        if n
        else None
    )
    for backend in ("reference", "sorted"):
        ours = through(backend, chosen, leaves, upstream, on_input)
        if truth is None:
            assert all(t.abs().sum() == 0 for t in ours)
            continue
        for got, expected in zip(ours, truth, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@needs_compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("case", [case for case in CASES if case != "not gated"])
def test_compiled_equals_the_reference_with_every_gradient(case, on_input, threads, monkeypatch):
    n, k, n_experts, extra = CASES[case]
    monkeypatch.setattr(compiled_module, "ROWS", 16)  # several blocks an expert
    monkeypatch.setattr(compiled_module, "SHARE", 1)  # a thread for the smallest work
    torch.set_num_threads(threads)
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        chosen, leaves = make(n, k, n_experts, **{**extra, "dtype": dtype})
        if n > 3:
            chosen[3, 0] = -1
            chosen[1] = -1
        upstream = torch.randn_like(leaves[0])
        expected, got = (
            through(backend, chosen, leaves, upstream, on_input)
            for backend in ("reference", "compiled")
        )
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=close, atol=close)
        x, weights, *stacks = leaves
        with torch.no_grad():
            quiet = run_experts(x, chosen, weights, *stacks, on_input=on_input, backend="compiled")
        assert torch.equal(quiet, got[0])


@needs_compiled
def test_compiled_takes_other_strides_and_goes_back_twice():
    chosen, leaves = make(30, 2, 4)
    x, weights, in_weight, down_weight = (
        leaf.detach().mT.contiguous().mT.requires_grad_() for leaf in leaves
    )
    out = run_experts(x, chosen, weights, in_weight, down_weight, backend="compiled")
    plain = run_experts(x, chosen, weights, in_weight, down_weight, backend="reference")
    leaves = (x, weights, in_weight, down_weight)
    expected = torch.autograd.grad(plain, leaves, torch.ones_like(plain))
    for _ in range(2):
        got = torch.autograd.grad(out, leaves, out.new_ones(1).expand_as(out), retain_graph=True)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_experts_are_shared_whole_and_evenly():
    blocks = [(0, 0, 5), (0, 5, 10), (2, 10, 13), (3, 13, 17), (5, 17, 19)]
    ordered, cuts = compiled_module._shared(blocks, 2)
    assert cuts == [0, 2, 5] and sorted(ordered) == blocks  # 10 rows, and 9
    assert ordered[:2] == blocks[:2]
    assert compiled_module._shared([], 2) == ([], [0, 0, 0])


@pytest.mark.parametrize("case", ["ordinary", "empty experts", "no tokens", "not gated"])
@pytest.mark.parametrize("on_input", [False, True])
def test_grouped_equals_the_reference_in_float32(case, on_input):
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no F.grouped_mm")
    n, k, n_experts, extra = CASES[case]
    chosen, leaves = make(n, k, n_experts, dtype=torch.float32, **extra)
    if n:
        chosen[0, 0] = chosen[2, 1] = -1
    upstream = torch.randn_like(leaves[0])
    # Rows past the last offset come uninitialised: filled with NaN, they must not be seen.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        results = [
            through(backend, chosen, leaves, upstream, on_input)
            for backend in ("reference", "grouped")
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_a_summed_output_sends_its_gradient_back(backend):
    # Its gradient is one number, expanded: grouped_mm's backward refuses that.
    chosen, leaves = make(9, 2, 4, dtype=torch.float32)
    x, weights, in_weight, down_weight = leaves
    run_experts(x, chosen, weights, in_weight, down_weight, backend=backend).sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sorted_has_the_slope_of_every_activation(activation, gated):
    chosen, leaves = make(6, 2, 3, d=4, f=5, gated=gated)
    x, weights, in_weight, down_weight = leaves

    def run(*leaves):
        x, weights, in_weight, down_weight = leaves
        return run_experts(
            x, chosen, weights, in_weight, down_weight, activation=activation, backend="sorted"
        )

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("backend", FAST)
def test_half_precision_is_at_most_twice_as_far_from_the_truth_as_the_loop(backend):
    chosen, leaves = make(70, 2, 5, d=64, f=64, dtype=torch.float32)
    upstream = torch.randn_like(leaves[0])

    def run(backend, dtype):
        copies = [leaf.detach().to(torch.bfloat16).to(dtype).requires_grad_() for leaf in leaves]
        return through(backend, chosen, copies, upstream.to(dtype))

    truth = run("reference", torch.float64)
    plain, ours = run("reference", torch.bfloat16), run(backend, torch.bfloat16)
    for t, p, o in zip(truth, plain, ours, strict=True):
        assert o.dtype == torch.bfloat16
        error, allowed = (float((v.double() - t).abs().max()) for v in (o, p))
        assert error <= 2 * allowed + 1e-3


@pytest.mark.parametrize(
    "backend", ["reference", *FAST, pytest.param("compiled", marks=needs_compiled)]
)
def test_the_same_run_twice_gives_the_same_bits(backend):
    chosen, leaves = make(200, 3, 7, dtype=torch.float32)
    upstream = torch.randn_like(leaves[0])
    first, second = (through(backend, chosen, leaves, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- routers


def test_the_four_forms_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64))
    after = route(logits, 2, "softmax_after")
    assert after.chosen.tolist() == [[1, 3]]
    assert after.weights[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    before = route(logits, 2, "softmax_before")
    assert before.weights[0].tolist() == pytest.approx([0.5, 0.25])
    odds = [0.5 / 1.5, 0.25 / 1.25]  # sigmoid(log p) = p / (1 + p)
    sigmoid = route(logits, 2, "sigmoid", scale=2.5)
    assert sigmoid.weights[0].tolist() == pytest.approx([2.5 * o / sum(odds) for o in odds])
    at_input = route(logits, 1, "input")
    assert at_input.on_input and at_input.weights[0].tolist() == pytest.approx(odds[:1])
    for routing in (after, before, sigmoid, at_input):
        assert routing.probabilities.sum(-1).tolist() == pytest.approx([1.0])


def test_the_bias_chooses_and_does_not_weigh():
    logits = torch.randn(50, 6, dtype=torch.float64)
    bias = torch.tensor([9.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    for form in ("softmax_before", "sigmoid", "softmax_after"):
        routing = route(logits, 2, form, bias=bias)
        assert (routing.chosen == 0).any(-1).all()
        scores = logits.sigmoid() if form == "sigmoid" else logits.softmax(-1)
        weights = scores.gather(-1, routing.chosen)
        if form != "softmax_before":
            weights = weights / weights.sum(-1, keepdim=True)
        torch.testing.assert_close(routing.weights, weights)


@pytest.mark.parametrize("form", FORMS)
def test_the_router_has_a_gradient_unless_it_is_normalised_away(form):
    for k in (1, 2):
        logits = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
        weights = route(logits, k, form).weights
        (gradient,) = torch.autograd.grad((weights * torch.rand_like(weights)).sum(), logits)
        lost = k == 1 and form in ("softmax_after", "sigmoid")
        assert (float(gradient.abs().max()) < 1e-12) == lost


def test_half_precision_logits_are_routed_in_float32():
    logits = torch.randn(9, 4).bfloat16()
    routing = route(logits, 2)
    assert routing.weights.dtype == routing.probabilities.dtype == torch.float32
    torch.testing.assert_close(routing.weights, route(logits.float(), 2).weights)


def test_capacity_drops_late_tokens_and_second_choices_first():
    # Four tokens want expert 0 first; token 4 wants it second.
    logits = torch.tensor([[3.0, 2, 0]] * 4 + [[2.0, 0, 3]])
    routing = limit_capacity(route(logits, 2), 0.9)  # C = ceil(0.9 · 5 · 2 / 3) = 3
    assert routing.chosen.tolist() == [[0, 1], [0, 1], [0, 1], [-1, -1], [2, -1]]
    assert routing.dropped == 3 and routing.counts.tolist() == [3, 3, 1]
    assert (routing.weights[routing.chosen < 0] == 0).all()
    assert routing.wanted.tolist() == route(logits, 2).chosen.tolist()
    roomy = limit_capacity(route(logits, 2), 3.0)
    assert roomy.dropped == 0


def test_a_dropped_token_gets_nothing_and_a_kept_one_what_it_got():
    config = MoEConfig(8, 12, 4, k=1, router="softmax_before", capacity=0.5)
    moe = MoE(config).double()
    free = MoE(dataclasses.replace(config, capacity=None)).double()
    free.load_state_dict(moe.state_dict())
    x = torch.randn(40, 8, dtype=torch.float64)
    lost = (moe.router(x).chosen < 0)[:, 0]
    assert 0 < lost.sum() < 40
    assert moe(x)[lost].abs().max() == 0
    torch.testing.assert_close(moe(x)[~lost], free(x)[~lost])


def test_expert_choice_is_balanced_and_leaks_the_future():
    logits = torch.randn(30, 5, dtype=torch.float64)
    routing = choose_tokens(logits, 2)
    assert routing.counts.tolist() == [12] * 5
    mine = logits.softmax(-1)
    kept = routing.chosen >= 0
    torch.testing.assert_close(routing.weights[kept], mine[kept])
    # A later token that an expert likes more takes an earlier one's place.
    moved = logits.clone()
    moved[-1] = torch.eye(5, dtype=torch.float64)[0] * 9
    assert not torch.equal(choose_tokens(moved, 2).chosen[:-1], routing.chosen[:-1])
    # Routing by tokens has no such leak.
    assert torch.equal(route(moved, 2).chosen[:-1], route(logits, 2).chosen[:-1])


def test_expert_choice_runs_in_the_layer():
    config = MoEConfig(8, 12, 4, k=2, choice="experts")
    moe = MoE(config).double()
    x = torch.randn(10, 8, dtype=torch.float64)
    routing = moe.router(x)
    e = moe.experts
    expected = token_by_token(
        x, routing.chosen, routing.weights, e.in_weight, e.down_weight, "silu", False
    )
    torch.testing.assert_close(moe(x), expected)


def test_noise_is_learned_and_only_in_training():
    moe = MoE(MoEConfig(8, 12, 4, k=2, noisy=True))
    x = torch.randn(30, 8)
    moe.eval()
    assert torch.equal(moe.router(x).logits, moe.router(x).logits)
    moe.train()
    assert not torch.equal(moe.router(x).logits, moe.router(x).logits)
    moe(x).square().sum().backward()
    assert moe.router.noise_weight.grad.abs().max() > 0


# --- the layer


@pytest.mark.parametrize("gated", [True, False])
def test_one_expert_is_the_dense_layer(gated):
    moe = MoE(MoEConfig(16, 24, 1, k=1, gated=gated, activation="silu" if gated else "relu"))
    moe.double()
    dense = (GatedFeedForward(16, 24) if gated else FeedForward(16, 24, bias=False)).double()
    with torch.no_grad():
        rows = moe.experts.in_weight[0]
        if gated:
            dense.gate.weight.copy_(rows[:24])
            dense.up.weight.copy_(rows[24:])
        else:
            dense.up.weight.copy_(rows)
        dense.down.weight.copy_(moe.experts.down_weight[0])
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(moe(x), dense(x), rtol=1e-12, atol=1e-12)


def test_upcycled_experts_begin_as_the_dense_layer():
    dense = GatedFeedForward(8, 24).double()
    moe = MoE.from_dense(dense, 4, 2)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(moe(x), dense(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(TypeError, match="ffn must be a GatedFeedForward"):
        MoE.from_dense(FeedForward(8), 4, 2)


def test_fine_grained_experts_cost_the_same():
    coarse = MoE(MoEConfig(8, 32, 4, k=1))
    fine = MoE(MoEConfig(8, 8, 16, k=4))
    expert = lambda moe: sum(p.numel() for p in moe.experts.parameters())
    assert expert(coarse) == expert(fine)
    active = [m.parameter_counts[1] - m.router.weight.numel() for m in (coarse, fine)]
    assert active[0] == active[1]


@pytest.mark.parametrize("gate", [False, True])
def test_the_shared_expert_sees_every_token(gate):
    moe = MoE(MoEConfig(8, 12, 4, k=2, d_shared=20, shared_gate=gate)).double()
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    routed = moe.experts(x.flatten(0, 1), moe.router(x.flatten(0, 1))).view(x.shape)
    always = moe.shared(x)
    if gate:
        always = always * torch.sigmoid(x @ moe.shared_gate.weight.t())
    torch.testing.assert_close(moe(x), routed + always)


def test_zero_tokens_and_gradients_through_the_whole_layer():
    moe = MoE(MoEConfig(8, 12, 4, k=2, d_shared=8))
    assert moe(torch.empty(2, 0, 8)).shape == (2, 0, 8)
    moe(torch.empty(0, 8)).sum().backward()
    x = torch.randn(2, 9, 8, requires_grad=True)
    moe(x).square().sum().backward()
    assert moe.router.weight.grad.abs().max() > 0 and x.grad.abs().max() > 0


def test_parameters_in_all_and_active():
    moe = MoE(MoEConfig(64, 224, 8, k=2))
    total, active = moe.parameter_counts
    expert = 3 * 64 * 224
    assert total == 8 * expert + 8 * 64 and active == 2 * expert + 8 * 64


# --- balance


def uniform(n, n_experts, k):
    """A routing in perfect balance: token n takes experts n, n + 1, …"""
    chosen = (torch.arange(n)[:, None] + torch.arange(k)) % n_experts
    logits = torch.zeros(n, n_experts, dtype=torch.float64)
    routing = route(logits, k)
    return dataclasses.replace(routing, chosen=chosen)


def test_balance_loss_at_balance_and_at_collapse_in_both_conventions():
    for n_experts, k in ((8, 1), (8, 2), (6, 3)):
        even = uniform(24, n_experts, k)
        assert float(balance_loss(even)) == pytest.approx(1.0)
        assert float(balance_loss(even, "transformers")) == pytest.approx(k)
        logits = torch.zeros(24, n_experts, dtype=torch.float64)
        logits[:, :k] = 50.0  # the same k experts for all
        collapsed = route(logits, k)
        assert float(balance_loss(collapsed)) == pytest.approx(n_experts / k)
        assert float(balance_loss(collapsed, "transformers")) == pytest.approx(n_experts)


def test_pooled_loss_sees_balance_where_each_layer_has_collapsed():
    logits = torch.zeros(2, 12, 4, dtype=torch.float64)
    logits[0, :, 0] = logits[1, :, 1] = 50.0
    layers = [route(layer, 1) for layer in logits]
    assert [float(balance_loss(layer)) for layer in layers] == pytest.approx([4.0, 4.0])
    assert float(pooled_balance_loss(layers)) == pytest.approx(2.0)


def test_pooled_loss_is_that_of_transformers():
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits = [torch.randn(2 * 9, 5) for _ in range(3)]
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 6:] = 0
    for given in (None, mask):
        theirs = mixtral.load_balancing_loss_func(tuple(logits), 5, 2, given)
        keep = None if given is None else given.bool().flatten()
        ours = pooled_balance_loss([route(x, 2) for x in logits], mask=keep)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_the_loss_moves_the_router_towards_balance():
    logits = torch.randn(400, 6, dtype=torch.float64) + torch.tensor([2.0, 0, 0, 0, 0, 0])
    before = load(route(logits, 1)).max()
    for _ in range(200):
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(balance_loss(route(logits, 1)), logits)
        logits = (logits - 200 * gradient).detach()
    assert load(route(logits, 1)).max() < before - 0.2


def test_dropped_slots_count_in_the_loss_where_they_wanted_to_go():
    logits = torch.randn(20, 4) + torch.tensor([3.0, 0, 0, 0])
    routing = route(logits, 1)
    limited = limit_capacity(routing, 1.0)
    assert limited.dropped > 0
    assert torch.equal(balance_loss(limited), balance_loss(routing))


def test_bias_steps_spread_the_load_and_leave_weights_alone():
    logits = torch.randn(500, 8, dtype=torch.float64) + torch.tensor([4.0] + [0.0] * 7)
    bias = torch.zeros(8, dtype=torch.float64)
    for _ in range(300):
        bias_step(bias, route(logits, 2, "sigmoid", bias=bias).counts, 0.01)
    even = load(route(logits, 2, "sigmoid", bias=bias))
    assert load(route(logits, 2, "sigmoid")).max() > 0.4 and even.max() < 0.15
    assert float(bias[0]) < 0


def test_z_loss_is_the_mean_square_of_logsumexp():
    logits = torch.randn(7, 3, dtype=torch.float64)
    expected = sum(math.log(sum(math.exp(v) for v in row)) ** 2 for row in logits.tolist()) / 7
    assert float(z_loss(logits)) == pytest.approx(expected)
    assert float(z_loss(torch.zeros(0, 3))) == 0


def test_experts_read_by_a_batch():
    assert [round(experts_read(8, 2, b), 2) for b in (1, 4, 8)] == [2.0, 5.47, 7.2]
    picks = torch.rand(4000, 8, 8).topk(2, -1).indices  # 4,000 batches of 8 tokens
    read = torch.tensor([len(batch.unique()) for batch in picks]).double().mean()
    assert float(read) == pytest.approx(experts_read(8, 2, 8), abs=0.05)


def test_routings_are_collected_from_every_layer_in_order():
    layers = torch.nn.Sequential(MoE(MoEConfig(8, 4, 3, k=1)), MoE(MoEConfig(8, 4, 5, k=2)))
    with collect_routings(layers) as routings:
        layers(torch.randn(6, 8))
    assert [r.logits.shape[1] for r in routings] == [3, 5]
    layers(torch.randn(6, 8))
    assert len(routings) == 2


# --- which backend


def test_explain_backend_names_what_runs_and_why_not_the_others(monkeypatch):
    experts = Experts(8, 12, 3)
    x = torch.randn(5, 8)
    choice = explain_backend(x, experts.in_weight, experts.down_weight)
    built = compiled_module.why_not() is None
    assert choice.backend == ("compiled" if built else "sorted")
    assert set(choice.others) == set(BACKENDS) - {choice.backend}
    assert "loop" in choice.others["grouped"]
    monkeypatch.setattr(compiled_module, "why_not", lambda: "there is no C compiler")
    without = explain_backend(x, experts.in_weight, experts.down_weight)
    assert without.backend == "sorted"
    assert without.others["compiled"] == "there is no C compiler"
    monkeypatch.undo()
    for half, activation in ((torch.bfloat16, "silu"), (torch.float32, "gelu")):
        cast = [t.to(half) for t in (x, experts.in_weight, experts.down_weight)]
        assert explain_backend(*cast, activation=activation).backend == "sorted"
    odd = Experts(7, 12, 3)
    told = str(explain_backend(torch.randn(5, 7), odd.in_weight, odd.down_weight))
    assert "multiple of 16 bytes" in told
    named = explain_backend(x, experts.in_weight, experts.down_weight, backend="reference")
    assert named.reason == "asked for by name"


def test_a_backend_asked_for_by_name_that_cannot_run_raises(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    chosen, (x, weights, in_weight, down_weight) = make(4, 2, 3)
    compiled, half = (
        "it takes float32 or float64 on the CPU",
        [leaf.half() for leaf in (x, weights)],
    )
    with pytest.raises(ValueError, match=f"backend='compiled' cannot run.*{compiled}"):
        run_experts(
            half[0], chosen, half[1], in_weight.half(), down_weight.half(), backend="compiled"
        )
    with pytest.raises(ValueError, match="it has gated SiLU alone"):
        run_experts(
            x, chosen, weights, in_weight, down_weight, activation="relu", backend="compiled"
        )
    for backend, message in (("grouped", "float32, float16 or bfloat16"), ("triton", "float16")):
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run.*{message}"):
            run_experts(x, chosen, weights, in_weight, down_weight, backend=backend)
        with pytest.raises(ValueError, match="cannot run"):
            explain_backend(x, in_weight, down_weight, backend)
    x32 = [t.float() for t in (x, in_weight, down_weight)]
    with pytest.raises(ValueError, match="needs a CUDA device: got cpu"):
        explain_backend(*x32, backend="triton")


# --- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 9}, ValueError, "k must be at most n_experts: got k=9, n_experts=4"),
        ({"k": 0}, ValueError, "k must be a whole number of at least 1: got 0"),
        ({"k": 1.5}, TypeError, "k must be a whole number"),
        ({"capacity": 0}, ValueError, "capacity must be a number above 0"),
        ({"capacity": -1.0}, ValueError, "capacity must be a number above 0"),
        ({"router": "best"}, ValueError, "router must be one of"),
        ({"choice": "nobody"}, ValueError, "choice must be one of"),
        ({"backend": "fast"}, ValueError, "backend must be one of"),
        ({"activation": "tan"}, ValueError, "activation must be one of"),
        ({"shared_gate": True}, ValueError, "shared_gate must have a shared expert"),
        ({"choice": "experts", "capacity": 1.0}, ValueError, "balanced by itself"),
    ],
)
def test_a_wrong_config_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        MoEConfig(**{"d_model": 8, "d_expert": 8, "n_experts": 4, **change})


def test_wrong_routing_is_refused():
    logits = torch.randn(3, 4)
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 4: got 5"):
        route(logits, 5)
    with pytest.raises(ValueError, match="logits must be numbers: got NaN"):
        route(logits.masked_fill(logits == logits.max(), math.nan), 2)
    with pytest.raises(ValueError, match="form must be one of"):
        route(logits, 2, "softmax")
    with pytest.raises(ValueError, match="logits must be floating point"):
        route(logits[0], 2)
    with pytest.raises(ValueError, match="capacity must be a number above 0: got 0"):
        limit_capacity(route(logits, 2), 0)
    with pytest.raises(ValueError, match="capacity must be a number above 0: got nan"):
        limit_capacity(route(logits, 2), math.nan)
    with pytest.raises(ValueError, match="logits must be numbers: got NaN"):
        MoE(MoEConfig(4, 4, 4))(torch.full((2, 4), math.nan))
    with pytest.raises(ValueError, match="x must be floating point"):
        MoE(MoEConfig(4, 4, 4))(torch.zeros(2, 5))


def test_wrong_experts_arguments_are_refused():
    chosen, (x, weights, in_weight, down_weight) = make(4, 2, 3)
    for change, error, message in (
        ({"chosen": chosen.int()}, TypeError, "chosen must be int64"),
        ({"weights": weights[:, :1]}, ValueError, "weights must be floating point"),
        ({"x": x[0]}, ValueError, "x must be floating point"),
        ({"x": x.float()}, TypeError, "must share one dtype"),
        ({"in_weight": in_weight[:, :5]}, ValueError, "in_weight must be"),
        ({"activation": "tan"}, ValueError, "activation must be one of"),
        ({"backend": "quick"}, ValueError, "backend must be one of auto"),
    ):
        given = dict(
            x=x, chosen=chosen, weights=weights, in_weight=in_weight, down_weight=down_weight
        )
        with pytest.raises(error, match=message):
            run_experts(**{**given, **change})


def test_wrong_balance_arguments_are_refused():
    routing = route(torch.randn(6, 4), 2)
    with pytest.raises(ValueError, match="convention must be one of"):
        balance_loss(routing, "mine")
    with pytest.raises(ValueError, match="at least one layer"):
        pooled_balance_loss([])
    with pytest.raises(ValueError, match=r"mask must be bool \(tokens=6,\)"):
        balance_loss(routing, mask=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 4: got 5"):
        experts_read(4, 5, 1)


def test_rows_are_cut_into_even_blocks():
    chosen = torch.tensor([0] * 17 + [2] * 40 + [-1] * 3)[:, None]
    order, blocks = sorted_module.slices(chosen, 4, 16)
    assert blocks == [(0, 0, 17), (2, 17, 37), (2, 37, 57)]  # no block of one row
    assert order.tolist() == list(range(60))
