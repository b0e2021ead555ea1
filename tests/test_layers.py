"""Norms, feed-forward networks and the residual block equal PyTorch's and transformers'."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from llmbook.layers import (
    ACTIVATIONS,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    Residual,
    RMSNorm,
    gelu,
    gelu_tanh,
    layer_norm,
    rms_norm,
    silu,
)
from llmbook.multihead import MultiHeadAttention

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outcome(module, x, *args):
    """Output, gradient of the input and gradients of the parameters, for one scalar loss."""
    x = x.clone().requires_grad_()
    out = module(x, *args)
    loss = (out * randn(*out.shape, seed=9, dtype=out.dtype)).sum()
    return [out.detach(), *torch.autograd.grad(loss, [x, *module.parameters()])]


def assert_same_outcome(ours, theirs, x, **tolerance):
    for mine, other in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        assert_close(mine, other, **(tolerance or TIGHT))


# --- norms


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("shape", [(7,), (3, 63), (2, 5, 10)])
def test_layer_norm_equals_torch_forward_and_gradient(backend, shape):
    theirs = nn.LayerNorm(shape[-1], eps=1e-3).double()
    with torch.no_grad():
        theirs.weight.copy_(randn(shape[-1], seed=1))
        theirs.bias.copy_(randn(shape[-1], seed=2))
    ours = LayerNorm(shape[-1], eps=1e-3, backend=backend).double()
    ours.load_state_dict(theirs.state_dict())
    assert_same_outcome(ours, theirs, 3 + 2 * randn(*shape))


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_rms_norm_equals_transformers_and_torch_forward_and_gradient(backend):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    theirs = llama.LlamaRMSNorm(63, eps=1e-3)
    with torch.no_grad():
        theirs.weight.copy_(randn(63, seed=1))
    ours = RMSNorm(63, eps=1e-3, backend=backend)
    ours.load_state_dict(theirs.state_dict())
    x = 3 + 2 * randn(4, 5, 63, dtype=torch.float32)
    assert_same_outcome(ours, theirs, x, rtol=1e-5, atol=2e-5)
    torchs = nn.RMSNorm(63, eps=1e-3).double()
    torchs.load_state_dict(theirs.state_dict())
    assert_same_outcome(ours.double(), torchs, x.double())


def test_each_token_is_normalised_alone_by_its_own_statistics():
    x = 5 + 3 * randn(4, 9)
    out = layer_norm(x, eps=0.0, backend="reference")
    assert_close(out.mean(-1), torch.zeros(4).double(), **TIGHT)
    assert_close(out.std(-1, unbiased=False), torch.ones(4).double(), **TIGHT)
    out = rms_norm(x, eps=0.0, backend="reference")
    assert_close(out.square().mean(-1), torch.ones(4).double(), **TIGHT)
    changed = x.clone()
    changed[0] += 100 * randn(9, seed=3)
    before, after = (layer_norm(t, backend="reference") for t in (x, changed))
    assert torch.equal(after[1:], before[1:])
    assert (rms_norm(x) - layer_norm(x)).abs().max() > 0.1  # only one of them removes the mean


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_float32_in_half_precision(norm, dtype):
    x = (200 + 60 * randn(16, 1023)).to(dtype)  # its squares overflow float16
    truth = norm(x.double(), backend="reference")
    for backend in ("reference", "torch"):
        out = norm(x, backend=backend)
        assert out.dtype == dtype
        # one rounding of the result, and nothing else
        allowed = truth.abs() * torch.finfo(dtype).eps + 1e-4
        assert ((out.double() - truth).abs() <= allowed).all(), backend


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: layer_norm(torch.zeros(2, 4), torch.ones(3)), ValueError, r"weight.*\(4,\):.*3"),
        (
            lambda: layer_norm(torch.zeros(2, 4), None, torch.ones(1)),
            ValueError,
            r"bias.*got \(1,\)",
        ),
        (
            lambda: rms_norm(torch.zeros(2, 4, dtype=torch.int64)),
            TypeError,
            "floating point.*int64",
        ),
        (
            lambda: rms_norm(torch.zeros(2, 4), backend="apex"),
            ValueError,
            "backend must be.*'apex'",
        ),
        (
            lambda: rms_norm(torch.zeros(2, 4), eps=-1.0),
            ValueError,
            "eps must be a number at least 0: got -1",
        ),
        (lambda: LayerNorm(0), ValueError, "d_model must be a whole number of at least 1: got 0"),
        (lambda: RMSNorm(2.5), TypeError, "d_model must be a whole number .*: got 2.5"),
    ],
)
def test_norms_refuse_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- feed-forward


@pytest.mark.parametrize(
    "ours, theirs",
    [(gelu, F.gelu), (gelu_tanh, lambda x: F.gelu(x, approximate="tanh")), (silu, F.silu)],
)
def test_the_activations_written_out_equal_torch(ours, theirs):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert_close(ours(x), theirs(x), rtol=0, atol=1e-14)


def test_the_named_activations_are_four_different_functions_equal_to_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 501, dtype=torch.float64)
    theirs = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
    for name, their in theirs.items():
        assert_close(ACTIVATIONS[name](x), ACT2FN[their](x), rtol=0, atol=1e-12)
    exact, approximate = ACTIVATIONS["gelu"](x), ACTIVATIONS["gelu_tanh"](x)
    assert 1e-4 < (exact - approximate).abs().max() < 5e-4


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_is_two_linear_layers_with_the_activation_between(activation, bias):
    torch.manual_seed(0)
    ours = FeedForward(6, 15, activation=activation, bias=bias).double()
    middle = {
        "relu": nn.ReLU(),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "silu": nn.SiLU(),
    }[activation]
    theirs = nn.Sequential(copy.deepcopy(ours.up), middle, copy.deepcopy(ours.down))
    assert_same_outcome(ours, theirs, randn(3, 7, 6))
    assert FeedForward(6).up.weight.shape == (24, 6)


def test_swiglu_equals_transformers_llama_forward_and_gradient():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=10, intermediate_size=27, num_attention_heads=1)
    theirs = llama.LlamaMLP(config).double()
    ours = GatedFeedForward(10, 27).double()
    ours.load_state_dict({k.replace("_proj", ""): v for k, v in theirs.state_dict().items()})
    assert_same_outcome(ours, theirs, randn(3, 7, 10))
    assert list(ours.state_dict()) == ["gate.weight", "up.weight", "down.weight"]


@pytest.mark.parametrize("d_model", [64, 768, 4096])
def test_the_gated_default_size_is_that_of_the_plain_default(d_model):
    with torch.device("meta"):
        plain = sum(p.numel() for p in FeedForward(d_model, bias=False).parameters())
        gated = sum(p.numel() for p in GatedFeedForward(d_model).parameters())
    assert 0 <= gated / plain - 1 < 0.04


def test_dropout_falls_on_the_hidden_layer_in_training_only():
    for make in (FeedForward, GatedFeedForward):
        torch.manual_seed(0)
        layer, x = make(6, 400, dropout=0.5), randn(5, 6, dtype=torch.float32)
        assert (layer(x) - layer(x)).abs().max() > 1e-3
        layer.eval()
        assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FeedForward(6, activation="tanhh"), "activation must be one of.*'tanhh'"),
        (lambda: GatedFeedForward(6, activation="swiglu"), "activation must be one of.*'swiglu'"),
        (lambda: FeedForward(6, 0), "d_ff must be a whole number of at least 1: got 0"),
        (lambda: GatedFeedForward(0), "d_model must be a whole number of at least 1: got 0"),
        (
            lambda: Residual(nn.Identity(), nn.Identity(), "middle"),
            "placement must be one of pre, post",
        ),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the residual block


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_two_residual_blocks_equal_torch_s_encoder_layer_forward_and_gradient(placement):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, batch_first=True, norm_first=placement == "pre"
    ).double()
    attend = Residual(MultiHeadAttention(12, 3), LayerNorm(12), placement)
    think = Residual(FeedForward(12, 20), LayerNorm(12), placement)
    ours = nn.Sequential(attend, think).double()
    ours.load_state_dict(
        {
            new: theirs.state_dict()[old]
            for new, old in {
                **{f"0.sublayer.{n}": f"self_attn.{n}" for n in attend.sublayer.state_dict()},
                **{
                    f"1.sublayer.{a}.{p}": f"{b}.{p}"
                    for a, b in (("up", "linear1"), ("down", "linear2"))
                    for p in ("weight", "bias")
                },
                **{
                    f"{i}.norm.{p}": f"norm{i + 1}.{p}" for i in (0, 1) for p in ("weight", "bias")
                },
            }.items()
        }
    )
    with torch.no_grad():
        for one, other in ((attend.norm, theirs.norm1), (think.norm, theirs.norm2)):
            one.weight.copy_(other.weight.copy_(randn(12, seed=4)))
    x = randn(2, 7, 12)
    out, grad = outcome(ours, x)[:2]
    want, want_grad = outcome(theirs, x)[:2]
    assert_close(out, want, **TIGHT)
    assert_close(grad, want_grad, **TIGHT)


def test_arguments_reach_the_sublayer_and_pre_leaves_a_clear_path():
    torch.manual_seed(0)
    block = Residual(MultiHeadAttention(12, 3), LayerNorm(12)).double()
    x = randn(1, 6, 12)
    assert_close(block(x, causal=True), x + block.sublayer(block.norm(x), causal=True), **TIGHT)
    silent = Residual(nn.Linear(12, 12), LayerNorm(12), "pre").double()
    nn.init.zeros_(silent.sublayer.weight), nn.init.zeros_(silent.sublayer.bias)
    assert torch.equal(silent(x), x)
    late = Residual(silent.sublayer, LayerNorm(12), "post").double()
    assert (late(x) - x).abs().max() > 0.1


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_dropout_falls_on_the_branch_and_never_on_the_residual(placement):
    torch.manual_seed(0)
    branch = Residual(nn.Linear(5, 5), nn.Identity(), placement, dropout=0.75)
    x = randn(1, 400, 5, dtype=torch.float32)
    added = branch(x) - x
    dropped = (added == 0).double().mean().item()
    assert 0.6 < dropped < 0.9
