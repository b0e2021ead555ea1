"""Positions: sinusoidal, learned, rotary, ALiBi, T5, held against formulas and transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.attention import attention, attention_weights
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import (
    LAYOUTS,
    LearnedPositions,
    Rotary,
    T5RelativeBias,
    alibi_bias,
    alibi_slopes,
    convert_layout,
    frequencies,
    relative_positions,
    rotary_frequencies,
    shift_matrix,
    sinusoidal,
    t5_bucket,
)

PLACES = st.integers(0, 3000)
EXACT = {"rtol": 0, "atol": 1e-12}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- sinusoidal


@pytest.mark.parametrize("d, base", [(2, 10_000.0), (6, 10_000.0), (34, 500.0)])
def test_sinusoidal_equals_the_formula_entry_by_entry(d, base):
    want = torch.empty(77, d, dtype=torch.float64)
    for t in range(77):
        for i in range(d // 2):
            want[t, 2 * i] = math.sin(t / base ** (2 * i / d))
            want[t, 2 * i + 1] = math.cos(t / base ** (2 * i / d))
    assert_close(sinusoidal(77, d, base=base, dtype=torch.float64), want, **EXACT)


def test_sinusoidal_takes_positions_of_any_shape_and_gives_the_rows_of_the_table():
    table = sinusoidal(50, 8)
    assert table.dtype == torch.float32 and table.shape == (50, 8)
    where = torch.tensor([[49, 0, 3], [7, 7, 21]])
    assert torch.equal(sinusoidal(where, 8), table[where])
    half = sinusoidal(torch.tensor([2.5]), 8, dtype=torch.float64)
    assert half[0, 0].item() == pytest.approx(math.sin(2.5), abs=1e-15)


def test_sinusoidal_is_right_at_large_positions_where_float32_angles_are_not():
    t = 1_000_003
    exact = math.sin(t * float(frequencies(64)[1]))
    assert sinusoidal(torch.tensor([t]), 64)[0, 2].item() == pytest.approx(exact, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20_000), st.integers(-3000, 3000), st.integers(1, 40))
def test_one_rotation_per_frequency_takes_every_position_to_the_shifted_one(t, offset, pairs):
    d = 2 * pairs
    here = sinusoidal(torch.tensor([t]), d, dtype=torch.float64)[0]
    there = sinusoidal(torch.tensor([t + offset]), d, dtype=torch.float64)[0]
    matrix = shift_matrix(offset, d)
    assert_close(matrix @ here, there, rtol=0, atol=1e-10)
    assert_close(matrix @ matrix.T, torch.eye(d, dtype=torch.float64), **EXACT)
    block = torch.block_diag(*[torch.ones(2, 2)] * pairs).bool()
    assert not matrix[~block].any()


def test_dot_products_depend_on_the_offset_alone_and_are_even_in_it():
    pe = sinusoidal(300, 32, dtype=torch.float64)
    gram = pe @ pe.T
    for k in (0, 1, 17, 200):
        expected = (k * frequencies(32)).cos().sum().expand(300 - k)
        assert_close(gram.diagonal(k), expected, rtol=0, atol=1e-10)
    assert_close(gram, gram.T, **EXACT)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: sinusoidal(5, 7), "must be even.*got 7"),
        (lambda: sinusoidal(5, 0), "must be even"),
        (lambda: sinusoidal(5, 8, base=0), "base must be a number above 0: got 0"),
        (lambda: sinusoidal(5, 8, base=math.nan), "base must be"),
        (lambda: sinusoidal(-1, 8), "positions must be a whole number of at least 0: got -1"),
    ],
)
def test_sinusoidal_refuses_bad_sizes(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
    with pytest.raises(TypeError, match="positions must be a whole number of at least 0: got 2.5"):
        sinusoidal(2.5, 8)


# --- learned


def test_learned_positions_look_up_rows_and_pass_gradients_to_them_alone():
    table = LearnedPositions(9, 4)
    assert torch.equal(table(5), table.weight[:5])
    where = torch.tensor([[8, 0], [3, 3]])
    out = table(where)
    assert torch.equal(out, table.weight[where])
    out.sum().backward()
    assert_close(table.weight.grad[:, 0], torch.tensor([1.0, 0, 0, 2, 0, 0, 0, 0, 1]))
    assert list(table.state_dict()) == ["weight"]
    torch.manual_seed(0)
    assert LearnedPositions(500, 40).weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    "positions, got", [(10, 9), (torch.tensor([2, 9]), 9), (torch.tensor([[-1]]), -1)]
)
def test_learned_positions_refuse_a_position_past_the_table(positions, got):
    with pytest.raises(ValueError, match=f"positions must be from 0 to 8.*got {got}$"):
        LearnedPositions(9, 4)(positions)


def test_learned_positions_of_nothing_are_nothing():
    table = LearnedPositions(9, 4)
    assert table(0).shape == (0, 4)
    assert table(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 4)
    with pytest.raises(ValueError, match="max_len must be a whole number of at least 1: got 0"):
        LearnedPositions(0, 4)


# --- rotary


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pair_is_turned_by_position_times_frequency(layout):
    d, t = 6, 13
    x = randn(1, d)
    got = Rotary(d, layout=layout).rotate(x, torch.tensor([t]))[0]
    for i in range(d // 2):
        first, second = (i, i + d // 2) if layout == "half" else (2 * i, 2 * i + 1)
        angle = t * 10_000.0 ** (-2 * i / d)
        z = complex(x[0, first], x[0, second]) * complex(math.cos(angle), math.sin(angle))
        assert got[first].item() == pytest.approx(z.real, abs=1e-12)
        assert got[second].item() == pytest.approx(z.imag, abs=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(m=PLACES, n=PLACES, shift=PLACES, pairs=st.integers(1, 33))
def test_scores_depend_on_the_offset_alone_and_lengths_are_kept(layout, m, n, shift, pairs):
    rotary = Rotary(2 * pairs, layout=layout)
    q, k = randn(1, 2 * pairs, seed=1), randn(1, 2 * pairs, seed=2)

    def score(a, b):
        return rotary.rotate(q, torch.tensor([a])) @ rotary.rotate(k, torch.tensor([b])).T

    assert_close(score(m, n), score(m + shift, n + shift), rtol=0, atol=1e-8)
    assert_close(rotary.rotate(q, torch.tensor([m])).norm(), q.norm(), rtol=1e-12, atol=0)


def test_position_0_is_left_alone_and_the_score_changes_with_the_offset():
    rotary, q, k = Rotary(8), randn(1, 8), randn(1, 8, seed=1)
    assert torch.equal(rotary.rotate(q, torch.tensor([0])), q)
    scores = [(q @ rotary.rotate(k, torch.tensor([n])).T).item() for n in range(6)]
    assert min(abs(a - b) for a, b in zip(scores, scores[1:])) > 1e-3


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
def test_layouts_convert_into_each_other_and_back(source, target):
    d, heads = 10, 3
    x = randn(2, heads, 7, d)
    t = torch.arange(7)
    converted = convert_layout(x, source, target)
    assert torch.equal(convert_layout(converted, target, source), x)
    turned = convert_layout(Rotary(d, layout=source).rotate(x, t), source, target)
    assert_close(Rotary(d, layout=target).rotate(converted, t), turned, **EXACT)
    flat = randn(heads * d, 4)  # rows of a weight: head by head
    rows = convert_layout(flat, source, target, n_heads=heads, dim=0)
    for h in range(heads):
        own = flat[h * d : (h + 1) * d]
        assert torch.equal(rows[h * d : (h + 1) * d], convert_layout(own.T, source, target).T)


def test_a_model_s_converted_weights_give_the_same_output_with_the_other_layout():
    torch.manual_seed(0)
    a = MultiHeadAttention(24, 4, n_kv_heads=2, rotate=Rotary(6, layout="interleaved")).double()
    b = MultiHeadAttention(24, 4, n_kv_heads=2, rotate=Rotary(6, layout="half")).double()
    state = dict(a.state_dict())
    for name in ("in_proj_weight", "in_proj_bias"):
        q, k, v = state[name].split([24, 12, 12])
        q = convert_layout(q, "interleaved", "half", n_heads=4, dim=0)
        k = convert_layout(k, "interleaved", "half", n_heads=2, dim=0)
        state[name] = torch.cat([q, k, v])
    x = randn(2, 9, 24)
    b.load_state_dict(a.state_dict())
    assert (a(x) - b(x)).abs().max() > 1e-3  # unconverted weights are wrong
    b.load_state_dict(state)
    assert_close(a(x), b(x), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def llama():
    return pytest.importorskip("transformers.models.llama.modeling_llama")


def test_the_half_layout_equals_transformers_llama_forward_and_gradient(llama):
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=5000.0)
    positions = torch.stack([torch.arange(33), torch.arange(33) + 900])
    ours = Rotary(16, base=5000.0)
    assert config.rope_parameters["rope_theta"] == 5000.0
    results = []
    for which in ("theirs", "ours"):
        q = randn(2, 4, 33, 16, dtype=torch.float32).requires_grad_()
        k = randn(2, 2, 33, 16, seed=1, dtype=torch.float32).requires_grad_()
        if which == "theirs":
            cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions)
            rotated = llama.apply_rotary_pos_emb(q, k, cos, sin)
        else:
            rotated = ours(q, k, positions[:, None])
        weight = randn(16, 1, seed=2, dtype=torch.float32)
        sum((x @ weight).sin().sum() for x in rotated).backward()
        results.append([*rotated, q.grad, k.grad])
    for theirs, mine in zip(*results, strict=True):
        assert_close(mine, theirs, rtol=0, atol=2e-4)  # angles near 900 rad in float32


@pytest.mark.parametrize("scaling", ["linear", "ntk"])
def test_scaled_frequencies_equal_transformers(llama, scaling):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = {"linear": "linear", "ntk": "dynamic"}[scaling]
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=100,
        rope_parameters={"rope_type": kind, "factor": 4.0, "rope_theta": 10_000.0},
    )
    theirs, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=250)
    factor = 4.0 if scaling == "linear" else 4.0 * 250 / 100 - 3.0  # dynamic
    ours = rotary_frequencies(16, scaling=scaling, factor=factor)
    assert_close(ours.float(), theirs, rtol=1e-5, atol=0)


def test_linear_scaling_divides_positions_and_ntk_keeps_the_fastest_and_divides_the_slowest():
    x, t = randn(5, 12), torch.tensor([0, 8, 40, 44, 400])
    squeezed = Rotary(12, scaling="linear", factor=4.0).rotate(x, t)
    assert_close(squeezed, Rotary(12).rotate(x, t // 4), **EXACT)
    plain, ntk = rotary_frequencies(12), rotary_frequencies(12, scaling="ntk", factor=4.0)
    ratio = plain / ntk
    assert ratio[0] == 1 and ratio[-1].item() == pytest.approx(4.0, rel=1e-12)
    assert (ratio.diff() > 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_stay_exact_in_half_precision(layout, dtype):
    x, t = randn(1, 64, dtype=torch.float32).to(dtype), torch.tensor([8001])
    got = Rotary(64, layout=layout).rotate(x, t)
    assert got.dtype == dtype
    truth = Rotary(64, layout=layout).rotate(x.double(), t)
    assert (got.double() - truth).abs().max() < 4 * torch.finfo(dtype).eps * x.abs().max()


def test_rotary_is_multihead_attention_s_rotate_and_cached_equals_uncached():
    torch.manual_seed(1)
    layer = MultiHeadAttention(24, 4, n_kv_heads=2, rotate=Rotary(6)).double()
    x = randn(2, 11, 24)
    whole = layer(x, causal=True)
    assert_close(layer(x, causal=True, positions=torch.arange(11) + 500), whole, rtol=0, atol=1e-9)
    spread = torch.arange(11).expand(2, 11) * torch.tensor([[1], [2]])
    wide = layer(x, causal=True, positions=spread)
    assert_close(wide[0], whole[0], rtol=0, atol=1e-12)
    assert (wide[1] - whole[1]).abs().max() > 1e-3
    cache = layer.new_cache(2, 11)
    with torch.no_grad():
        steps = [layer(part, causal=True, cache=cache) for part in x.split([4, 1, 6], dim=1)]
    assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: Rotary(7), "must be even.*got 7"),
        (lambda: Rotary(8, layout="split"), "layout must be one of.*got 'split'"),
        (
            lambda: Rotary(8, scaling="yarn", factor=2.0),
            "scaling must be None, a function or one of.*got 'yarn'",
        ),
        (lambda: Rotary(8, factor=2.0), "factor=2.0 needs a scaling"),
        (
            lambda: Rotary(8, scaling="linear", factor=0.5),
            "factor must be a number at least 1: got 0.5",
        ),
        (lambda: Rotary(2, scaling="ntk", factor=2.0), "head_dim at least 4: got 2"),
        (lambda: Rotary(8).rotate(torch.zeros(3, 6), torch.arange(3)), r"head_dim=8 .* \(3, 6\)"),
        (lambda: Rotary(8).rotate(torch.zeros(3, 8), torch.arange(4)), r"of 3 tokens: got \(4,\)"),
        (
            lambda: convert_layout(torch.zeros(3, 12), "half", "neox"),
            "target must be one of.*'neox'",
        ),
        (
            lambda: convert_layout(torch.zeros(3, 12), "half", "complex", n_heads=4),
            "12 for n_heads=4",
        ),
    ],
)
def test_rotary_refuses_what_does_not_fit(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


# --- biases on the scores


def test_relative_positions_are_bottom_right_aligned():
    assert relative_positions(2, 4).tolist() == [[-2, -1, 0, 1], [-3, -2, -1, 0]]


def test_alibi_slopes_of_a_power_of_two_are_the_paper_s_sequence():
    assert_close(alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9))
    assert alibi_slopes(1).tolist() == [2**-8]


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20, 25, 33])
def test_alibi_slopes_equal_transformers_bloom(heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert alibi_slopes(heads).shape == (heads,)
    assert_close(alibi_slopes(heads), theirs, rtol=1e-6, atol=0)


def test_alibi_bias_is_minus_slope_times_distance_and_gives_bloom_s_weights():
    bias = alibi_bias(3, 5, 7)
    assert bias.shape == (1, 3, 5, 7)
    for h, slope in enumerate(alibi_slopes(3).tolist()):
        for i in range(5):
            for j in range(7):
                assert bias[0, h, i, j].item() == pytest.approx(-slope * abs(i + 2 - j), rel=1e-6)
    q, k = randn(1, 3, 7, 4, dtype=torch.float32), randn(1, 3, 7, 4, seed=1, dtype=torch.float32)
    bloom = alibi_slopes(3)[None, :, None, None] * torch.arange(7)  # grows to the right instead
    assert_close(
        attention_weights(q, k, bias=alibi_bias(3, 7, 7), causal=True),
        attention_weights(q, k, bias=bloom, causal=True),
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("n_buckets, max_distance", [(32, 128), (16, 20), (6, 9), (64, 1000)])
def test_t5_buckets_equal_transformers(bidirectional, n_buckets, max_distance):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    relative = torch.arange(-1300, 1301)
    how = {"bidirectional": bidirectional, "max_distance": max_distance}
    theirs = t5.T5Attention._relative_position_bucket(relative, num_buckets=n_buckets, **how)
    ours = t5_bucket(relative, n_buckets=n_buckets, **how)
    assert torch.equal(ours, theirs)
    assert ours.min() >= 0 and ours.max() < n_buckets


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_bias_equals_transformers_forward_and_gradient_and_loads_its_weights(bidirectional):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    from transformers import T5Config

    config = T5Config(d_model=12, num_heads=3, d_kv=4, is_decoder=not bidirectional)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = T5RelativeBias(3, bidirectional=bidirectional)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if "relative" in k})
    for queries, keys in ((77, 77), (5, 200)):
        got = ours(queries, keys)
        want = theirs.compute_bias(queries, keys, past_seen_tokens=keys - queries)
        assert torch.equal(got, want) and got.shape == (1, 3, queries, keys)
    weight = randn(*got.shape, dtype=torch.float32)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    mine, other = (m.relative_attention_bias.weight.grad for m in (ours, theirs))
    assert_close(mine, other)


def test_biases_go_into_attention_and_the_learned_one_gets_a_gradient():
    q = randn(2, 3, 9, 4, dtype=torch.float32)
    bias = T5RelativeBias(3)
    plain = attention(q, q, q, causal=True)
    for extra in (bias(9, 9), alibi_bias(3, 9, 9)):
        assert (attention(q, q, q, bias=extra, causal=True) - plain).abs().max() > 1e-3
    attention(q, q, q, bias=bias(9, 9)).square().sum().backward()
    assert bias.relative_attention_bias.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: alibi_slopes(0), "n_heads must be a whole number of at least 1: got 0"),
        (lambda: t5_bucket(torch.zeros(1).long(), n_buckets=7), "n_buckets must be even.*got 7"),
        (lambda: t5_bucket(torch.zeros(1).long(), n_buckets=2), "at least 4 with.*: got 2"),
        (lambda: T5RelativeBias(3, n_buckets=1, bidirectional=False), "at least 2: got 1"),
        (lambda: T5RelativeBias(3, max_distance=8), "max_distance must be above 8.*got 8"),
    ],
)
def test_biases_refuse_bad_sizes(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
