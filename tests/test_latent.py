"""Latent attention: DeepSeek's own layer with the same weights, and its cache."""

import pytest
import torch
from einops import rearrange
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as reference

from llmbook.attention import padding_mask
from llmbook.latent import LatentAttention
from llmbook.positions import Rotary


def layer(turned=6, seed=0, heads=3, rank=10, d_model=21, head_dim=5):
    torch.manual_seed(seed)
    rotate = Rotary(turned, layout="interleaved", base=100.0) if turned else None
    made = LatentAttention(
        d_model, heads, rank, head_dim=head_dim, turned=turned, rotate=rotate
    ).double()
    torch.nn.init.uniform_(made.norm.weight, 0.5, 1.5)
    return made


def of_transformers(ours):
    config = DeepseekV3Config(
        hidden_size=ours.d_model,
        num_attention_heads=ours.n_heads,
        num_key_value_heads=ours.n_heads,
        kv_lora_rank=ours.rank,
        q_lora_rank=None,
        qk_rope_head_dim=ours.turned,
        qk_nope_head_dim=ours.head_dim,
        v_head_dim=ours.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        attn_implementation="eager",
    )
    theirs = reference.DeepseekV3Attention(config, 0).double().eval()
    theirs.load_state_dict(
        {
            "q_proj.weight": ours.q.weight,
            "kv_a_proj_with_mqa.weight": ours.down.weight,
            "kv_a_layernorm.weight": ours.norm.weight,
            "kv_b_proj.weight": ours.up.weight,
            "o_proj.weight": ours.out_proj.weight,
        }
    )
    return theirs, reference.DeepseekV3RotaryEmbedding(config)


def test_it_is_deepseek_s_layer_forward_and_gradient():
    ours = layer()
    theirs, rotary = of_transformers(ours)
    x = torch.randn(2, 9, 21, dtype=torch.float64)
    below = torch.zeros(9, 9, dtype=torch.float64).masked_fill(
        torch.ones(9, 9).triu(1).bool(), -torch.inf
    )
    angles = rotary(x, torch.arange(9)[None])
    got, want = ours(x, causal=True), theirs(x, angles, below[None, None])[0]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)  # their angles are float32
    way = torch.randn_like(got)
    for mine, other in (
        (ours.q.weight, theirs.q_proj.weight),
        (ours.down.weight, theirs.kv_a_proj_with_mqa.weight),
        (ours.up.weight, theirs.kv_b_proj.weight),
        (ours.norm.weight, theirs.kv_a_layernorm.weight),
    ):
        a = torch.autograd.grad((got * way).sum(), mine, retain_graph=True)[0]
        b = torch.autograd.grad((want * way).sum(), other, retain_graph=True)[0]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("turned", [0, 6])
@pytest.mark.parametrize("pieces", [[1] * 11, [4, 1, 6], [11]])
def test_from_the_cache_it_says_the_same_and_holds_rank_plus_turned_numbers(turned, pieces):
    ours = layer(turned)
    x, cache = torch.randn(2, 11, 21, dtype=torch.float64), ours.new_cache(2, 13)
    with torch.no_grad():
        want = ours(x, causal=True)
        got = torch.cat([ours(part, causal=True, cache=cache) for part in x.split(pieces, 1)], 1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6 if turned else 1e-12)
    assert cache.length == 11 and cache.nbytes == 2 * 13 * (10 + turned) * 8


def test_padding_is_not_looked_at_and_positions_may_be_given():
    ours = layer()
    x = torch.randn(2, 7, 21, dtype=torch.float64)
    mask = padding_mask([7, 4])
    changed = x.clone()
    changed[1, 4:] = 5.0
    with torch.no_grad():
        a, b = (ours(z, mask=mask, causal=True) for z in (x, changed))
        late = ours(x, mask=mask, causal=True, positions=torch.arange(3, 10).expand(2, -1))
    torch.testing.assert_close(a[1, :4], b[1, :4])
    assert (a[1, 4:] - b[1, 4:]).abs().max() > 1e-3
    torch.testing.assert_close(late, a, rtol=0, atol=1e-6)  # distances alone count


def test_without_turned_numbers_it_is_one_shared_key_and_value_head():
    ours = layer(turned=0)
    x = torch.randn(1, 6, 21, dtype=torch.float64)
    w = rearrange(ours.up.weight, "(h two d) r -> two h d r", two=2, h=3)
    c = ours.norm(ours.down(x))[0]
    q = rearrange(ours.q(x)[0], "t (h d) -> h t d", h=3)
    weights = (q @ w[0] @ c.T / 5**0.5).softmax(-1)
    want = ours.out_proj(rearrange(weights @ c @ w[1].mT, "h t d -> t (h d)"))
    torch.testing.assert_close(ours(x)[0], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"turned": 4}, "turned and rotate go together: got turned=4, rotate=None"),
        ({"rotate": Rotary(4)}, "got turned=0"),
        ({"n_heads": 4}, "n_heads"),
        ({"rank": 0}, "rank must be a whole number of at least 1|rank must be .*: got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        LatentAttention(**{"d_model": 21, "n_heads": 3, "rank": 10} | given)


def test_a_cache_of_two_widths_refuses_what_does_not_fit():
    cache = layer().new_cache(1, 5)
    c = torch.randn(1, 1, 2, 10).double()
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 10\) and \(1, 1, 2, 6\)"):
        cache.append(c, c)
    with pytest.raises(ValueError, match="x must"):
        layer()(torch.randn(1, 2, 20).double())
