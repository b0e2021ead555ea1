"""Multi-head attention: torch's module in our conventions, and a cache that changes nothing."""

import pytest
import torch
from torch import nn

from llmbook.attention import attention, causal_mask, padding_mask
from llmbook.cache import KVCache
from llmbook.multihead import MultiHeadAttention


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(bias=True, d_model=24, n_heads=4):
    """Ours and torch's with the same weights, biases not zero."""
    ours = MultiHeadAttention(d_model, n_heads, bias=bias).double()
    theirs = nn.MultiheadAttention(d_model, n_heads, bias=bias, batch_first=True).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_equals_torchs_module(bias):
    ours, theirs = pair(bias)
    x = torch.randn(3, 7, 24, dtype=torch.float64)
    mask = padding_mask([7, 4, 5], 7) & causal_mask(7, 7)
    for allowed in (None, causal_mask(7, 7), mask):
        # Theirs: True = may not attend, one mask per batch and head.
        theirs_mask = None if allowed is None else ~allowed.expand(3, 4, 7, 7).reshape(12, 7, 7)
        expected, weights = theirs(x, x, x, attn_mask=theirs_mask, average_attn_weights=False)
        torch.testing.assert_close(ours(x, mask=allowed), expected)
        torch.testing.assert_close(ours.weights(x, mask=allowed), weights)
    torch.testing.assert_close(ours(x, causal=True), ours(x, mask=causal_mask(7, 7)))


@pytest.mark.parametrize("bias", [True, False])
def test_cross_attention_equals_torchs_module_gradients_too(bias):
    ours, theirs = pair(bias)
    x = torch.randn(3, 5, 24, dtype=torch.float64, requires_grad=True)
    context = torch.randn(3, 9, 24, dtype=torch.float64, requires_grad=True)
    mask = padding_mask([9, 4, 6], 9)
    expected, _ = theirs(x, context, context, key_padding_mask=~mask[:, 0, 0])
    out = ours(x, context, mask=mask)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    names = [name for name, _ in theirs.named_parameters()]
    got = torch.autograd.grad(out, [x, context, *map(ours.get_parameter, names)], upstream)
    want = torch.autograd.grad(expected, [x, context, *map(theirs.get_parameter, names)], upstream)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_moves_both_ways_and_the_same_seed_starts_the_same(bias):
    torch.manual_seed(7)
    theirs = nn.MultiheadAttention(24, 4, bias=bias)
    torch.manual_seed(7)
    ours = MultiHeadAttention(24, 4, bias=bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    theirs.load_state_dict(MultiHeadAttention(24, 4, bias=bias).state_dict(), strict=True)


def test_heads_are_attentions_of_their_own_slices():
    mha = MultiHeadAttention(24, 4, n_kv_heads=2).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    w_q, w_k, w_v = mha.in_proj_weight.split([24, 12, 12])
    heads = []
    for h in range(4):
        kv = h // 2
        q = x @ w_q[6 * h : 6 * h + 6].T
        k = x @ w_k[6 * kv : 6 * kv + 6].T
        v = x @ w_v[6 * kv : 6 * kv + 6].T
        heads.append(((q @ k.mT / 6**0.5).softmax(-1)) @ v)
    torch.testing.assert_close(mha.heads(x), torch.stack(heads, 1))
    torch.testing.assert_close(mha(x), torch.cat(heads, -1) @ mha.out_proj.weight.T)
    assert mha.in_proj_weight.shape == (24 + 12 + 12, 24)


def test_head_dim_and_scale_may_be_chosen():
    mha = MultiHeadAttention(10, 3, head_dim=8, scale=1.0, bias=False).double()
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    assert mha(x).shape == (2, 5, 10)
    q, k, v = mha.project(x)
    assert q.shape == (2, 3, 5, 8)
    torch.testing.assert_close(mha.heads(x), attention(q, k, v, scale=1.0))


def test_tokens_permuted_in_come_permuted_out():
    mha = MultiHeadAttention(24, 4).double()
    x, order = torch.randn(2, 9, 24, dtype=torch.float64), torch.randperm(9)
    torch.testing.assert_close(mha(x[:, order]), mha(x)[:, order])


def test_later_tokens_get_exactly_zero_gradient():
    mha = MultiHeadAttention(24, 4, n_kv_heads=1).double()
    x = torch.randn(1, 7, 24, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(mha(x, causal=True)[:, 3].sum(), x)
    assert (grad[:, 4:] == 0).all()
    assert (grad[:, :4].abs().sum(-1) > 0).all()


def spin(q, k, positions):
    """A rotation by position of the first two numbers of each head."""

    def turn(x):
        angle = 0.3 * positions.to(x.dtype)[..., None]
        a, b = x[..., :1], x[..., 1:2]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 2:]], -1)

    return turn(q), turn(k)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 4], [9]])
@pytest.mark.parametrize("rotate", [None, spin])
def test_cached_outputs_equal_uncached_outputs(n_kv_heads, chunks, rotate):
    mha = MultiHeadAttention(24, 4, n_kv_heads=n_kv_heads, rotate=rotate).double().eval()
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    with torch.no_grad():
        full = mha(x, causal=True)
        cache = mha.new_cache(2, 11)
        parts = [mha(part, causal=True, cache=cache) for part in x.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), full)
        assert cache.length == 9
        cache.crop(5)  # take four tokens back and say them again
        torch.testing.assert_close(mha(x[:, 5:], causal=True, cache=cache), full[:, 5:])
    assert cache.nbytes == 2 * 2 * n_kv_heads * 11 * 6 * 8


def test_cached_cross_attention_reads_the_context_once():
    mha = MultiHeadAttention(24, 4).double().eval()
    x, context = torch.randn(2, 5, 24).double(), torch.randn(2, 8, 24).double()
    with torch.no_grad():
        full = mha(x, context)
        cache = mha.new_cache(2, 8)
        for i in range(5):
            seen = context if i == 0 else context * torch.nan
            torch.testing.assert_close(mha(x[:, i : i + 1], seen, cache=cache), full[:, i : i + 1])
        with pytest.raises(ValueError, match="context must be the one"):
            mha(x, context[:, :7], cache=cache)


def test_left_padded_rows_equal_rows_alone():
    mha = MultiHeadAttention(24, 4, rotate=spin).double().eval()
    x = torch.randn(1, 4, 24, dtype=torch.float64)
    padded = torch.cat([torch.randn(1, 3, 24).double(), x], 1)
    positions = torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
    mask = torch.tensor([False] * 3 + [True] * 4)
    out = mha(padded, mask=mask, causal=True, positions=positions)
    torch.testing.assert_close(out[:, 3:], mha(x, causal=True))


def test_reordered_cache_continues_the_chosen_rows():
    mha = MultiHeadAttention(24, 4).double().eval()
    x, new = torch.randn(2, 5, 24).double(), torch.randn(3, 1, 24).double()
    with torch.no_grad():
        cache = mha.new_cache(2, 6)
        mha(x, causal=True, cache=cache)
        rows = torch.tensor([1, 1, 0])
        cache.reorder(rows)
        out = mha(new, causal=True, cache=cache)
        torch.testing.assert_close(out, mha(torch.cat([x[rows], new], 1), causal=True)[:, -1:])


def test_dropout_only_while_training():
    mha = MultiHeadAttention(24, 4, dropout=0.5)
    x = torch.randn(2, 9, 24)
    assert not torch.equal(mha(x), mha(x))
    mha.eval()
    assert torch.equal(mha(x), mha(x))


def test_bad_input_is_refused_with_what_it_was():
    with pytest.raises(ValueError, match="divide d_model: got d_model=768, n_heads=10"):
        MultiHeadAttention(768, 10)
    with pytest.raises(ValueError, match="divide n_heads.*n_heads=4, n_kv_heads=3"):
        MultiHeadAttention(24, 4, n_kv_heads=3)
    with pytest.raises(ValueError, match="n_heads must be a whole number of at least 1: got 0"):
        MultiHeadAttention(24, 0)
    with pytest.raises(ValueError, match="dropout"):
        MultiHeadAttention(24, 4, dropout=1.5)
    mha = MultiHeadAttention(24, 4)
    with pytest.raises(ValueError, match=r"x must be .*d_model=24.*\(2, 5, 23\)"):
        mha(torch.randn(2, 5, 23))
    with pytest.raises(ValueError, match=r"context must be .*got float32 \(5, 24\)"):
        mha(torch.randn(2, 5, 24), torch.randn(5, 24))
    with pytest.raises(ValueError, match="context must have x's batch: got 3, expected 2"):
        mha(torch.randn(2, 5, 24), torch.randn(3, 5, 24))


def test_a_cache_refuses_what_it_cannot_hold():
    mha, x = MultiHeadAttention(24, 4), torch.randn(2, 5, 24)
    with pytest.raises(ValueError, match="torch.no_grad"):
        mha(x, causal=True, cache=mha.new_cache(2, 8))
    with torch.no_grad():
        cache = mha.new_cache(2, 8)
        mha(x, causal=True, cache=cache)
        with pytest.raises(ValueError, match="full: max_len=8, 5 held, 5 to add"):
            mha(x, causal=True, cache=cache)
        assert cache.length == 5
        with pytest.raises(ValueError, match="fit the cache"):
            mha(x[:1], causal=True, cache=cache)
        with pytest.raises(TypeError, match="holds torch.float16: got keys in torch.float32"):
            mha(x, causal=True, cache=mha.new_cache(2, 8, dtype=torch.float16))
    with pytest.raises(ValueError, match="length must be a whole number from 0 to 5: got 6"):
        cache.crop(6)
    with pytest.raises(ValueError, match="max_len must be a whole number of at least 1: got 0"):
        KVCache(1, 1, 0, 4)
