"""Attention: what the formula promises, and every backend held to it."""

import math

import pytest
import torch
import torch.nn.functional as F

import llmbook.attention as module
from llmbook.attention import (
    attention,
    attention_weights,
    causal_mask,
    explain_backend,
    padding_mask,
)

BACKENDS_HERE = ["reference", "sdpa"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(batch=2, heads=4, kv_heads=4, queries=7, keys=7, head_dim=8, dtype=torch.float64):
    shapes = [(batch, heads, queries, head_dim), *[(batch, kv_heads, keys, head_dim)] * 2]
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def out_and_grads(inputs, upstream, function=attention, **options):
    """Output and the gradients of q, k, v and, when there is one, of the bias."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    q, k, v, *bias = inputs
    out = function(q, k, v, bias=bias[0] if bias else None, **options)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream.to(out.dtype))]


# --- the formula


def test_reference_equals_the_formula_written_as_loops():
    q, k, v = make(batch=1, heads=2, kv_heads=2, queries=3, keys=5)
    out = attention(q, k, v, backend="reference")
    for h in range(2):
        for i in range(3):
            scores = [float(q[0, h, i] @ k[0, h, j]) / math.sqrt(8) for j in range(5)]
            total = sum(math.exp(s) for s in scores)
            expected = sum(math.exp(s) / total * v[0, h, j] for j, s in enumerate(scores))
            torch.testing.assert_close(out[0, h, i], expected)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_scale_replaces_the_default(backend):
    q, k, v = make()
    default = attention(q, k, v, backend=backend)
    torch.testing.assert_close(attention(q * 3, k, v, scale=8**-0.5 / 3, backend=backend), default)
    assert not torch.allclose(attention(q, k, v, scale=1.0, backend=backend), default)


def test_rows_of_weights_sum_to_one_or_to_zero_where_nothing_may_be_seen():
    q, k, v = make(queries=5, keys=9)
    mask = torch.rand(2, 4, 5, 9) < 0.5
    mask[..., 0] = True
    mask[1, 2, 3] = False
    weights = attention_weights(q, k, mask=mask)
    expected = torch.ones(2, 4, 5, dtype=torch.float64)
    expected[1, 2, 3] = 0
    torch.testing.assert_close(weights.sum(-1), expected)
    assert (weights[~mask] == 0).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights @ v, attention(q, k, v, mask=mask))


def test_half_precision_scores_are_float32_from_the_bias_on():
    # Near 64, bfloat16 numbers lie 0.5 apart: there a bias of ±0.1 would vanish.
    q = torch.full((1, 1, 1, 16), 2.0, dtype=torch.bfloat16)
    k = torch.full((1, 1, 2, 16), 2.0, dtype=torch.bfloat16)
    bias = torch.tensor([0.1, -0.1], dtype=torch.bfloat16)
    weights = attention_weights(q, k, scale=1.0, bias=bias)
    assert weights.dtype == torch.bfloat16
    torch.testing.assert_close(weights[0, 0, 0], bias.float().softmax(-1).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_large_scores_in_half_precision_are_those_of_float32(backend, dtype):
    """Scores near 13,000: unscaled they overflow in float16, in bfloat16 they lie 64 apart."""
    q = (torch.randn(1, 2, 6, 64) * 40).to(dtype)
    v = torch.randn(1, 2, 6, 64).to(dtype)
    truth = attention(q.double(), q.double(), v.double(), backend="reference")
    out = attention(q, q, v, backend=backend)
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=1e-3)
    near, keys = q / 8, (q / 8).roll(1, 2)
    wanted = attention_weights(near.double(), keys.double())
    found = attention_weights(near, keys).double()
    best = (near.float() @ keys.float().mT / 8).softmax(-1).to(dtype).double()
    assert (found - wanted).abs().max() <= (best - wanted).abs().max() + 1e-6


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_the_reference_leaves_autocast_outside(backend):
    q, k, v = make(dtype=torch.bfloat16)
    outside = attention(q, k, v, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention(q, k, v, backend=backend), outside)


# --- equivariance, causality


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_permuting_the_queries_permutes_the_outputs(backend):
    q, k, v = make(queries=6, keys=9)
    order = torch.randperm(6)
    out = attention(q, k, v, backend=backend)
    torch.testing.assert_close(attention(q[:, :, order], k, v, backend=backend), out[:, :, order])


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_permuting_keys_with_values_changes_nothing(backend):
    q, k, v = make(queries=6, keys=9)
    order = torch.randperm(9)
    out = attention(q, k[:, :, order], v[:, :, order], backend=backend)
    torch.testing.assert_close(out, attention(q, k, v, backend=backend))
    # … and so does it with tokens alone: self-attention is equivariant, not invariant.
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64)
    moved = attention(x[:, :, order], x[:, :, order], x[:, :, order], backend=backend)
    torch.testing.assert_close(moved, attention(x, x, x, backend=backend)[:, :, order])
    assert not torch.allclose(moved, attention(x, x, x, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 7), (1, 5), (7, 4)])
def test_causal_gradient_of_later_keys_is_exactly_zero(backend, queries, keys):
    q, k, v = make(queries=queries, keys=keys)
    k.requires_grad_()
    v.requires_grad_()
    out = attention(q, k, v, causal=True, backend=backend)
    for i in range(queries):
        dk, dv = torch.autograd.grad(out[:, :, i].sin().sum(), (k, v), retain_graph=True)
        last = i + keys - queries  # bottom-right aligned: the last query sees every key
        assert (dk[:, :, max(last + 1, 0) :] == 0).all()
        assert (dv[:, :, max(last + 1, 0) :] == 0).all()
        if last >= 0:
            assert (dv[:, :, : last + 1].abs().sum((0, 1, 3)) > 0).all()
        if last >= 1:  # alone, a key has weight 1 whatever it is
            assert (dk[:, :, : last + 1].abs().sum((0, 1, 3)) > 0).all()


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (3, 8), (1, 8), (8, 3), (77, 63)])
def test_causal_is_the_bottom_right_mask(backend, queries, keys):
    q, k, v = make(queries=queries, keys=keys)
    mask = torch.zeros(queries, keys, dtype=torch.bool)
    for i in range(queries):
        for j in range(keys):
            mask[i, j] = keys - 1 - j >= queries - 1 - i
    assert torch.equal(mask, causal_mask(queries, keys))
    out = attention(q, k, v, causal=True, backend=backend)
    torch.testing.assert_close(out, attention(q, k, v, mask=mask, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_the_last_queries_alone_give_the_last_rows(backend):
    # What a cache relies on: new queries against all keys are rows of the full computation.
    q, k, v = make(queries=9, keys=9)
    full = attention(q, k, v, causal=True, backend=backend)
    for n in (1, 4):
        some = attention(q[:, :, -n:], k, v, causal=True, backend=backend)
        torch.testing.assert_close(some, full[:, :, -n:])


# --- masks, bias, grouped queries


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("shape", [(2, 4, 5, 9), (2, 1, 1, 9), (1, 4, 5, 1), (5, 9), (9,)])
def test_masks_broadcast_and_true_means_may_attend(backend, shape):
    q, k, v = make(queries=5, keys=9)
    mask = torch.rand(shape) < 0.6
    full = mask.expand(2, 4, 5, 9)
    out = attention(q, k, v, mask=mask, backend=backend)
    for b, h, i in [(0, 0, 0), (1, 3, 4), (1, 2, 2)]:
        seen = full[b, h, i]
        some = (x[None, None] for x in (q[b, h, i : i + 1], k[b, h, seen], v[b, h, seen]))
        few = attention(*some)
        torch.testing.assert_close(out[b, h, i], few[0, 0, 0])


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_what_is_masked_does_not_matter(backend):
    q, k, v = make()
    lengths = torch.tensor([7, 3])
    mask = padding_mask(lengths, 7)
    assert mask.shape == (2, 1, 1, 7)
    assert mask.sum() == lengths.sum()
    out = attention(q, k, v, mask=mask, causal=True, backend=backend)
    k[1, :, 3:], v[1, :, 3:] = 1e3, -1e3
    torch.testing.assert_close(attention(q, k, v, mask=mask, causal=True, backend=backend), out)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("how", ["mask", "bias", "mask and bias", "causal"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_fully_masked_row_gives_zero_and_zero_gradients(backend, how, dtype):
    queries = 9 if how == "causal" else 5
    q, k, v = make(queries=queries, keys=7, dtype=dtype)
    mask = torch.ones(2, 1, queries, 7, dtype=torch.bool)
    bias = torch.randn(2, 4, queries, 7, dtype=dtype)
    if how == "bias":
        bias[:, :, 1] = -math.inf
    elif how == "mask and bias":  # neither alone forbids everything
        mask[:, :, 1, :4] = False
        bias[:, :, 1, 4:] = -math.inf
    else:
        mask[:, :, 1] = False
    options = {"causal": True} if how == "causal" else {"mask": None if how == "bias" else mask}
    inputs = [q, k, v, bias] if "bias" in how else [q, k, v]
    upstream = torch.randn(2, 4, queries, 8, dtype=dtype)
    out, *grads = out_and_grads(inputs, upstream, backend=backend, **options)
    assert (out[:, :, 1] == 0).all()
    assert (grads[0][:, :, 1] == 0).all()
    assert all(torch.isfinite(x).all() for x in [out, *grads])
    if "bias" in how:
        assert (grads[3][:, :, 1] == 0).all()
    alive = [i for i in range(queries) if i > 1]
    assert (grads[0][:, :, alive].abs().sum(-1) > 0).any()
    # The row without keys adds nothing to what keys and values receive.
    upstream[:, :, 1] += 100
    again = out_and_grads(inputs, upstream, backend=backend, **options)
    for got, expected in zip(again, [out, *grads], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", [(2, 4, 5, 9), (1, 4, 5, 9), (4, 1, 9), (5, 1)])
def test_bias_is_added_to_scaled_scores_and_receives_its_gradient(shape):
    q, k, v = make(queries=5, keys=9)
    bias = torch.randn(shape, dtype=torch.float64)
    upstream = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    results = {
        name: out_and_grads([q, k, v, bias], upstream, scale=0.7, backend=name)
        for name in BACKENDS_HERE
    }
    for got, expected in zip(results["sdpa"], results["reference"], strict=True):
        torch.testing.assert_close(got, expected)
    scores = 0.7 * q @ k.mT + bias
    torch.testing.assert_close(results["reference"][0], scores.softmax(-1) @ v)
    assert results["reference"][4].shape == bias.shape
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: attention(q, k, v, bias=bias, causal=True, backend="reference"),
        [x[:1, :, :3].clone().requires_grad_() for x in (q, k, v)]
        + [torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)],
    )


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("extra", [{}, {"causal": True}, {"mask": causal_mask(5, 9)}])
def test_grouped_queries_equal_repeated_heads(backend, kv_heads, extra):
    q, k, v = make(heads=4, kv_heads=kv_heads, queries=5, keys=9)
    upstream = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    out, dq, dk, dv = out_and_grads([q, k, v], upstream, backend=backend, **extra)
    group = 4 // kv_heads
    # Head h reads key/value head h // group: repeat each head in place, don't tile them.
    wide = [q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)]
    out_w, dq_w, dk_w, dv_w = out_and_grads(wide, upstream, backend="reference", **extra)
    torch.testing.assert_close(out, out_w)
    torch.testing.assert_close(dq, dq_w)
    torch.testing.assert_close(dk, dk_w.unflatten(1, (kv_heads, group)).sum(2))
    torch.testing.assert_close(dv, dv_w.unflatten(1, (kv_heads, group)).sum(2))


def test_values_may_have_their_own_width():
    q, k, _ = make()
    v = torch.randn(2, 4, 7, 3, dtype=torch.float64)
    out = attention(q, k, v)
    assert out.shape == (2, 4, 7, 3)
    torch.testing.assert_close(out, attention(q, k, v, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_empty_sequences(backend):
    q, k, v = make(queries=3, keys=0)
    assert torch.equal(attention(q, k, v, backend=backend), torch.zeros(2, 4, 3, 8).double())
    q, k, v = make(queries=0, keys=3)
    assert attention(q, k, v, causal=True, backend=backend).shape == (2, 4, 0, 8)


# --- backends agree

CASES = {
    "full": ({}, 63, 63, 4),
    "causal": ({"causal": True}, 63, 63, 4),
    "causal, unequal": ({"causal": True}, 31, 77, 2),
    "one query": ({"causal": True}, 1, 77, 1),
    "mask and bias": ({"mask": torch.arange(63) % 5 != 0}, 31, 63, 4),
}


def by_hand(q, k, v, bias=None, mask=None, causal=False):
    """The formula, every step in q's own dtype."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = scores if bias is None else scores + bias
    if causal:
        scores = scores.masked_fill(~causal_mask(*scores.shape[-2:]), -math.inf)
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_backends_agree_with_the_formula(case, backend, dtype):
    """Error against float64 at most twice that of the formula by hand in the same dtype."""
    extra, queries, keys, kv_heads = CASES[case]
    inputs = make(1, 4, kv_heads, queries, keys, 16)
    if "bias" in case:
        inputs.append(torch.randn(1, 4, queries, keys, dtype=torch.float64))
    inputs = [x.to(dtype) for x in inputs]
    upstream = torch.randn(1, 4, queries, 16).to(dtype)
    exact = [x.double() for x in inputs]
    truth = out_and_grads(exact, upstream, function=by_hand, **extra)
    plain = out_and_grads(inputs, upstream, function=by_hand, **extra)
    ours = out_and_grads(inputs, upstream, backend=backend, **extra)
    for name, t, p, o in zip(["out", "dq", "dk", "dv", "dbias"], truth, plain, ours, strict=False):
        floor = 64 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        allowed = 2 * (p.double() - t).abs().max() + floor
        error = (o.double() - t).abs().max()
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"
        if dtype == torch.float64:
            torch.testing.assert_close(o, t, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_dropout_zeroes_weights_and_keeps_their_mean(backend):
    q, k, _ = make(batch=1, heads=1, kv_heads=1, queries=400, keys=50)
    v = torch.eye(50, dtype=torch.float64)[None, None]  # the output shows the weights
    kept = attention(q, k, v, dropout=0.25, backend=backend)
    weights = attention_weights(q, k)
    zero = kept == 0
    assert 0.22 < zero.double().mean() < 0.28
    torch.testing.assert_close(kept[~zero], weights[~zero] / 0.75)


# --- bad input


def test_bad_input_is_refused_with_what_it_was():
    q, k, v = make()
    wrong = [
        (TypeError, "q must be a tensor", dict(q=[1.0])),
        (ValueError, r"q must have shape .*\(2, 7, 8\)", dict(q=q[:, 0])),
        (TypeError, "floating point", dict(q=q.long(), k=k.long(), v=v.long())),
        (TypeError, "one dtype.*float32", dict(k=k.float())),
        (ValueError, "one device", dict(k=k.to("meta"))),
        (ValueError, "batch", dict(q=q[:1])),
        (ValueError, "heads and tokens", dict(v=v[:, :, :6])),
        (ValueError, "heads and tokens", dict(v=v[:, :2])),
        (ValueError, "head_dim.*8.*7", dict(k=k[..., :7])),
        (ValueError, "divide q's heads.*q 4, k 3", dict(k=k[:, :3], v=v[:, :3])),
        (TypeError, "mask must be a bool", dict(mask=torch.zeros(7, 7))),
        (TypeError, "mask must be a bool", dict(mask=torch.ones(7, 7, dtype=torch.int64))),
        (TypeError, "mask must be a bool", dict(mask=[[True]])),
        (ValueError, r"broadcast.*\(2, 4, 7, 7\).*\(7, 6\)", dict(mask=torch.ones(7, 6) > 0)),
        (ValueError, "mask must broadcast", dict(mask=torch.ones(1, 1, 1, 7, 7) > 0)),
        (ValueError, "mask must be on", dict(mask=torch.ones(7, 7, device="meta") > 0)),
        (TypeError, "bias must be a floating", dict(bias=torch.ones(7, 7) > 0)),
        (ValueError, "bias must broadcast", dict(bias=torch.ones(3, 7, 7))),
        (TypeError, "causal must be", dict(causal=1)),
        (TypeError, "scale must be a number", dict(scale="8")),
        (ValueError, "scale must be a number: got nan", dict(scale=math.nan)),
        (ValueError, "dropout.*1.0", dict(dropout=1.0)),
        (ValueError, "dropout", dict(dropout=-0.1)),
        (TypeError, "dropout", dict(dropout=None)),
        (ValueError, "backend must be.*'flash'", dict(backend="flash")),
    ]
    for error, message, change in wrong:
        arguments = {"q": q, "k": k, "v": v} | change
        for function in (attention, explain_backend):
            with pytest.raises(error, match=message):
                function(**arguments)
    with pytest.raises(ValueError, match="max_len.*5 < 7"):
        padding_mask([7, 3], 5)


def test_sdpa_itself_is_aligned_top_left_which_is_why_a_mask_is_built():
    # If PyTorch ever changes this, the special case in the sdpa backend can go.
    q, k, v = make(queries=3, keys=7)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert not torch.allclose(theirs, attention(q, k, v, causal=True))


# --- the benchmark


def test_benchmark_runs_and_shows_no_speed_for_a_wrong_result(capsys, monkeypatch):
    from llmbook.bench import main

    arguments = ["attention", "--quick", "--device", "cpu", "--masks", "causal", "--kv-heads", "1"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "auto       vs SDPA" in shown
    assert "reference  vs SDPA" in shown

    right = module._RUN["sdpa"]
    monkeypatch.setitem(module._RUN, "sdpa", lambda *given: right(*given) * 1.01)  # "auto" is it
    assert main(arguments) == 1
    shown = capsys.readouterr().out
    assert "auto is wrong" in shown
    assert "auto       vs SDPA" not in shown
