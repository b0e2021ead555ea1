"""What notebooks build, held to the library: one comparison a name, raising where they differ."""

import math
from dataclasses import astuple

import torch
import torch.nn.functional as F

from llmbook import moe, positions
from llmbook.alignment import dpo, kl, ppo, reward
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.heads import DecoderHead
from llmbook.scaling import PUBLISHED

COMPARISONS = {}


def compares(name):
    """Register the function below as the comparison for `"notebook/name"`."""

    def register(function):
        COMPARISONS[name] = function
        return function

    return register


# --- recurrent networks


@compares("recurrent/Cell")
def _cell(Cell):
    import numpy as np

    from llmbook.recurrent import RNN

    cell, xs = (
        Cell(3, 4, 2, np.random.default_rng(1)),
        np.random.default_rng(2).normal(size=(9, 3)),
    )
    layer = RNN(3, 4).double()
    with torch.no_grad():
        for name, weight in (("weight_ih", "W_xh"), ("weight_hh", "W_hh"), ("bias_ih", "b_h")):
            getattr(layer, f"{name}_l0").copy_(torch.tensor(getattr(cell, weight)))
        layer.bias_hh_l0.zero_()
        states = layer(torch.tensor(xs)[None])[0][0]
    ours = cell.unroll(xs, np.zeros(4))
    close(ours, states)
    close(cell.readout(ours), states @ torch.tensor(cell.W_hy).T + torch.tensor(cell.b_y))


@compares("recurrent/bptt_by_lag")
def _bptt_by_lag(build):
    import types

    import numpy as np

    from llmbook.recurrent import rnn_cell

    W, U, b, out = (v.numpy() for v in _draw(4, (4, 3), (4, 4), (4,), (2, 4)))
    U = U / 3

    def unroll(xs, h):
        states = []
        for x in xs:
            states.append(h := np.tanh(U @ h + W @ x + b))
        return np.array(states)

    cell = types.SimpleNamespace(
        W_hh=U, W_hy=out, unroll=unroll, readout=lambda states: states @ out.T
    )
    (xs,) = _draw(5, (6, 3))
    weight, h, loss = torch.tensor(U).requires_grad_(), torch.zeros(1, 4).double(), 0.0
    for t, x in enumerate(xs):
        h = rnn_cell(x[None], h, torch.tensor(W), weight, torch.tensor(b))
        if t in (2, 5):
            loss = loss + (h @ torch.tensor(out).T).square().sum() / 2
    (want,) = torch.autograd.grad(loss, weight)
    by_lag = build(cell, xs.numpy(), [2, 5])
    close(by_lag.sum(0), want, 1e-10)
    assert by_lag.shape == (6, 4, 4) and not by_lag[5].any() == by_lag[4].any()


@compares("recurrent/scan")
def _scan(scan):
    from llmbook.recurrent.scan import linear_scan

    for steps in (1, 13, 16):
        a, b = _draw(steps, (steps, 3), (steps, 3))
        found, want = scan(a, b), linear_scan(a, b, dim=0)
        torch.testing.assert_close(found[0], want.states)
        assert found[1] == want.rounds


@compares("recurrent/longest_chain")
def _longest_chain(longest_chain):
    from llmbook.experiments import recurrent

    x = torch.ones(3, requires_grad=True)
    short, long = x * 2, x
    for _ in range(7):
        long = long.exp()
    for output, operations in ((short, 2), (short + long, 9), ((short * long).sum(), 10)):
        # the leaf's own node counts as one
        assert longest_chain(output) == recurrent.longest_chain(output) == operations


@compares("gradients/jacobian_product")
def _jacobian_product(build):
    from llmbook.recurrent import rnn_cell

    W, pushes, h = _draw(6, (5, 5), (4, 5), (5,))
    still = torch.zeros(5, 5).double()

    def last(h):
        for push in pushes:
            h = rnn_cell(push[None] * 0, h[None], still, W, push)[0]
        return h

    product, bare = build(W.numpy(), pushes.numpy(), h.numpy())
    close(product, torch.autograd.functional.jacobian(last, h), 1e-10)
    close(bare, torch.linalg.matrix_power(W, 4), 1e-9)


@compares("gradients/clip_norm")
def _clip_norm(build):
    for limit in (0.5, 100.0):
        weight = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
        (weight.grad,) = _draw(7, (3, 4))
        ours = build(weight.grad.numpy().copy(), limit)
        torch.nn.utils.clip_grad_norm_([weight], limit)
        close(ours, weight.grad, 1e-5)


@compares("gradients/started_as_rotation")
def _started_as_rotation(build):
    from llmbook.experiments import recall

    torch.manual_seed(8)
    net = recall.plain()()
    state = torch.random.get_rng_state()
    mine = build(net, 0.7).layer.weight_hh_l0.detach().clone()
    torch.random.set_rng_state(state)
    torch.nn.init.orthogonal_(net.layer.weight_hh_l0, 0.7)
    close(mine, net.layer.weight_hh_l0.detach(), 1e-6)


@compares("gates/lstm_step")
def _lstm_step(build):
    from llmbook.recurrent import lstm_cell

    W, U, b, x, h, c = _draw(9, (12, 2), (12, 3), (12,), (2,), (3,), (3,))
    want = lstm_cell(x[None], h[None], c[None], W, U, b)
    got = build(*(v.numpy() for v in (W, U, b, x, h, c)))
    for ours, library in zip(got, want, strict=True):
        close(ours, library[0])


@compares("gates/gru_step")
def _gru_step(build):
    from llmbook.recurrent import GRU

    for after in (True, False):
        torch.manual_seed(10)
        layer = GRU(2, 3, reset_after=after).double()
        (x, h) = _draw(11, (2,), (3,))
        weights = [p.detach().numpy() for p in layer.parameters()]
        with torch.no_grad():
            want = layer(x[None, None], h[None, None])[1][0, 0]
        close(build(*weights, x.numpy(), h.numpy(), reset_after=after), want)


@compares("gates/min_gru")
def _min_gru(build):
    from llmbook.recurrent.scan import linear_loop, linear_scan

    x, W_z, W_n = _draw(12, (7, 4), (4, 4), (4, 4))
    z, n, h = (x @ W_z).sigmoid(), x @ W_n, torch.zeros(4).double()
    for solve in (linear_loop, linear_scan):
        states = build(x, W_z, W_n, lambda a, b, solve=solve: solve(a, b, dim=0).states)
        h = torch.zeros(4).double()
        for t in range(7):
            h = (1 - z[t]) * h + z[t] * n[t]
            close(states[t], h)


# --- attention


def _heads(*tensors):
    """(tokens, width) as (1, 1, tokens, width)."""
    return [t[None, None] for t in tensors]


@compares("attention/attend")
def _attend(attend):
    from llmbook.attention import attention, attention_weights, causal_mask

    q, k, v = _draw(1, (5, 4), (7, 4), (7, 3))
    for mask in (None, causal_mask(5, 7)):
        out, weights = attend(q, k, v, mask)
        close(out, attention(*_heads(q, k, v), mask=mask)[0, 0])
        close(weights, attention_weights(*_heads(q, k), mask=mask)[0, 0])


@compares("attention/AdditiveScore")
def _additive_score(AdditiveScore):
    from llmbook.experiments.attention import AdditiveScore as library

    torch.manual_seed(2)
    theirs, ours = library(6).double(), AdditiveScore(6).double()
    ours.load_state_dict(theirs.state_dict())
    s, states = _draw(3, (2, 6), (2, 5, 12))
    close(ours(s, ours.U(states)), theirs(s, theirs.U(states)))


@compares("attention/SelfAttention")
def _self_attention(SelfAttention):
    from llmbook.attention import attention, causal_mask

    torch.manual_seed(4)
    head, (x,) = SelfAttention(8).double(), _draw(5, (6, 8))
    for mask in (None, causal_mask(6, 6)):
        q, k, v = _heads(head.q(x), head.k(x), head.v(x))
        close(head(x, mask), attention(q, k, v, mask=mask)[0, 0])


@compares("attention_kernels/tiled")
def _tiled(tiled):
    from llmbook.attention import attention

    q, k, v = _draw(6, (37, 8), (50, 8), (50, 3))
    for block in (1, 16, 64):
        out, logs = tiled(q, k, v, block)
        close(out, attention(*_heads(q, k, v), backend="reference")[0, 0])
        close(logs[:, 0], (q @ k.T / 8**0.5).logsumexp(-1))
        own, _ = tiled(q, k[:37], v[:37], block, causal=True)
        heads = _heads(q, k[:37], v[:37])
        close(own, attention(*heads, causal=True, backend="reference")[0, 0])


@compares("attention_kernels/tiled_backward")
def _tiled_backward(build):
    from llmbook.attention import attention

    q, k, v, push = _draw(7, (37, 8), (50, 8), (50, 3), (37, 3))
    for t in (q, k, v):
        t.requires_grad_()
    out = attention(*_heads(q, k, v), backend="reference")[0, 0]
    want = torch.autograd.grad(out, (q, k, v), push)
    logs = (q @ k.T / 8**0.5).logsumexp(-1, keepdim=True)
    with torch.no_grad():
        for block in (1, 16, 64):
            for ours, library in zip(build(q, k, v, out, logs, push, block), want, strict=True):
                close(ours, library, 1e-10)


@compares("attention_kernels/weight_bound")
def _weight_bound(build):
    from llmbook.attention import attention_weights

    for n, bound in ((2, 0.5), (50, 3.0)):
        q, k = torch.ones(1, 1).double(), torch.full((n, 1), -bound).double()
        k[0] = bound
        close(build(n, bound), attention_weights(*_heads(q, k))[0, 0, 0, 0])


# --- state spaces


def _draw(seed, *shapes):
    import torch

    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


@compares("mamba/join")
def _join(join):
    import torch

    from llmbook.recurrent.scan import linear_loop

    a, b = _draw(1, (3, 5), (3, 5))
    steps = list(zip(a, b, strict=True))
    joined = join(join(steps[0], steps[1]), steps[2])
    torch.testing.assert_close(joined[1], linear_loop(a, b, dim=0).states[-1])
    torch.testing.assert_close(joined[0], a.prod(0))


@compares("mamba/scan_tree")
def _scan_tree(scan_tree):
    import torch

    from llmbook.recurrent.scan import linear_scan

    for steps in (1, 13, 16):
        a, b = _draw(steps, (steps, 3), (steps, 3))
        found, want = scan_tree(a, b), linear_scan(a, b, dim=0)
        torch.testing.assert_close(found[0], want.states)
        assert found[1] == want.rounds


@compares("mamba/selective_loop")
def _selective_loop(selective_loop):
    import torch

    from llmbook.ssm import selective_scan

    u, delta, A, B, C = _draw(2, (9, 4), (9, 4), (4, 3), (9, 3), (9, 3))
    delta, A = delta.abs(), -A.abs()
    want = selective_scan(u[None], delta[None], A, B[None], C[None], backend="associative")[0]
    torch.testing.assert_close(selective_loop(u, delta, A, B, C), want)


@compares("mamba/ssd_matrix")
def _ssd_matrix(ssd_matrix):
    import torch

    from llmbook.ssm import semiseparable

    delta, B, C = _draw(3, (11,), (11, 4), (11, 4))
    delta, a = delta.abs(), torch.tensor([-0.4], dtype=torch.float64)
    want = semiseparable(delta[None, :, None], a, B[None, :, None], C[None, :, None])[0, 0]
    torch.testing.assert_close(ssd_matrix(delta, a, B, C), want)


# --- scaling laws


@compares("scaling/law_loss")
def _law_loss(law_loss):
    for law in PUBLISHED.values():
        for n, d in ((1e8, 3e9), (7e10, 1.4e12)):
            assert law_loss(n, d, *astuple(law)) == law.loss(n, d)


@compares("scaling/best_size")
def _best_size(best_size):
    for law in PUBLISHED.values():
        for flops in (1e18, 3e23):
            assert math.isclose(best_size(flops, *astuple(law)), law.optimum(flops)[0])


# --- several heads


@compares("multi_head/two_echoes")
def _two_echoes(build):
    from llmbook.experiments import multi_head as heads

    for ours, library in zip(
        build(7, torch.Generator().manual_seed(3)),
        heads.two_echoes(7, torch.Generator().manual_seed(3)),
        strict=True,
    ):
        assert torch.equal(ours, library)


def _layer(**how):
    from llmbook.multihead import MultiHeadAttention

    torch.manual_seed(5)
    return MultiHeadAttention(12, 6, bias=False, **how).double()


@compares("multi_head/many_heads")
def _many_heads(build):
    layer, (x,) = _layer(), _draw(6, (7, 12))
    close(build(x, layer.in_proj_weight, layer.out_proj.weight, 6), layer(x[None])[0])


@compares("multi_head/terms")
def _terms(build):
    layer, (x,) = _layer(), _draw(7, (7, 12))
    heads = layer.heads(x[None])
    terms = build(heads[0], layer.out_proj.weight)
    for i, term in enumerate(terms):
        alone = torch.zeros_like(heads)
        alone[:, i] = heads[:, i]
        close(term, layer.merge(alone)[0])


@compares("multi_head/share")
def _share(build):
    from llmbook.attention import _repeat_heads

    (kv,) = _draw(8, (3, 5, 4))
    for heads in (3, 6):
        close(build(kv, heads), _repeat_heads(kv[None], heads)[0])


@compares("multi_head/grouped")
def _grouped(build):
    for g in (1, 2, 6):
        layer, (x,) = _layer(n_kv_heads=g), _draw(9, (7, 12))
        w_q, w_kv = layer.in_proj_weight.split([12, 4 * g])
        ours = build(x, w_q, w_kv, layer.out_proj.weight, 6, g)
        close(ours, layer(x[None], causal=True)[0])


def _latents(build):
    from llmbook.latent import LatentAttention

    torch.manual_seed(6)
    layer, (x,) = LatentAttention(12, 3, 5).double(), _draw(10, (7, 12))
    layer.norm = torch.nn.Identity()
    weights = [part.weight for part in (layer.q, layer.down, layer.up, layer.out_proj)]
    close(build(x, *weights, 3), layer(x[None], causal=True)[0])


compares("multi_head/latent")(_latents)
compares("multi_head/absorbed")(_latents)


@compares("multi_head/cache_bytes")
def _bytes_of_layers(build):
    from llmbook.cache import Caches, KVCache
    from llmbook.latent import LatentAttention
    from llmbook.positions import Rotary

    how = {"dtype": torch.float16}
    grouped = [KVCache(1, 3, 11, 8, **how) for _ in range(5)]
    latent = LatentAttention(12, 3, 5, turned=2, rotate=Rotary(2)).half()
    held = Caches([*grouped, latent.new_cache(1, 11), KVCache(1, 1, 4, 8, **how)])
    assert build([(5, 48, None), (1, 7, None), (1, 16, 4)], 11) == held.nbytes
    assert build([(5, 48, None)], 3, size=4) == 5 * 48 * 3 * 4


@compares("multi_head/seen")
def _seen(build):
    from llmbook.models.mistral import windowed

    below = torch.ones(9, 9).tril().bool()
    for window in (1, 4, 9, 20):
        library = windowed(below, window, 9, 9, "cpu").expand(1, 1, 9, 9)[0, 0]
        assert torch.equal(build(9, window), library)
        with_first = library.clone()
        with_first[:, :2] |= below[:, :2]
        assert torch.equal(build(9, window, first=2), with_first)


# --- positions


def close(ours, library, tolerance=1e-12):
    torch.testing.assert_close(
        torch.as_tensor(ours, dtype=torch.float64), library.double(), rtol=0, atol=tolerance
    )


@compares("rlhf_rewards/pairs_of")
def _pairs_of(build):
    ranks = torch.tensor([[0, 1, 1, 2], [3, 2, 1, 0]])
    assert torch.equal(build(ranks), reward.pairs_of(ranks))


@compares("rlhf_rewards/bradley_terry")
def _bradley_terry(build):
    a, b = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    close(build(a, b), reward.bradley_terry(a, b))


@compares("rlhf_rewards/ranking_loss")
def _ranking_loss(build):
    scores = torch.randn(5, 4, dtype=torch.float64)
    ranks = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 2], [3, 1, 2, 0], [1, 1, 1, 0], [0, 3, 3, 3]])
    close(build(scores, ranks), reward.ranking_loss(scores, ranks))


@compares("rlhf_rewards/RewardModel")
def _reward_model(build):
    decoder = GPT(GPTConfig(vocab_size=11, max_len=16, d_model=16, n_layers=2, n_heads=2)).eval()
    ours, library = build(decoder), DecoderHead(decoder, 1)
    library.output.load_state_dict(ours.head.state_dict())
    ids = torch.randint(11, (3, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    close(ours(ids, mask), library.at_the_end(ids, mask)[:, 0], 1e-5)


def answers(rows=4, tokens=7):
    """Random log-probabilities of two policies, advantages and a mask with padding."""
    ours, theirs, advantages = torch.randn(3, rows, tokens, dtype=torch.float64)
    mask = torch.arange(tokens) < torch.tensor([[7], [1], [4], [6]])[:rows]
    return *(torch.where(mask, x, 0.0) for x in (ours, theirs, advantages)), mask


@compares("rlhf/optimum")
def _optimum(build):
    ref, r = torch.randn(2, 7, dtype=torch.float64)
    want = ref.exp() * (r / 0.7).exp()
    close(build(ref, r, 0.7), want / want.sum())


@compares("rlhf/kl_estimate")
def _kl_estimate(build):
    ours, theirs, _, _ = answers()
    for kind in kl.ESTIMATORS:
        close(build(ours, theirs, kind), kl.kl_estimate(ours, theirs, kind))


@compares("rlhf/token_rewards")
def _token_rewards(build):
    ours, theirs, _, mask = answers()
    final = torch.randn(4, dtype=torch.float64)
    close(build(final, ours, theirs, mask, 0.3), ppo.token_rewards(final, ours, theirs, mask, 0.3))


@compares("rlhf/gae")
def _gae(build):
    rewards, values, _, mask = answers()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.0), (1.0, 1.0)):
        found, want = (
            build(rewards, values, mask, gamma, lam),
            ppo.gae(rewards, values, mask, gamma, lam),
        )
        for one, other in zip(found, want, strict=True):
            close(one, other)


@compares("rlhf/clipped_loss")
def _clipped_loss(build):
    ours, old, advantages, mask = answers()
    close(
        build(ours, old, advantages, mask), ppo.clipped_policy_loss(ours, old, advantages, mask)[0]
    )


@compares("rlhf/dpo_loss")
def _dpo_loss(build):
    ours, theirs = torch.randn(2, 5, 2, dtype=torch.float64)
    close(build(ours, theirs, 0.3), dpo.dpo_loss(ours, theirs, 0.3)[0])


@compares("rlhf_limits/chances")
def _chances(build):
    from llmbook.experiments.rlhf import measured

    for n, k in ((16, 4), (5, 1), (3, 3)):
        close(build(n, k), measured.chances(n, k))


@compares("rlhf_limits/wins")
def _wins(build):
    from llmbook.experiments.rlhf import measured

    ours, theirs = torch.randint(4, (5, 3)).double(), torch.randint(4, (5, 2)).double()
    assert build(ours, theirs) == measured.wins(ours, theirs)


@compares("positional_encoding/Head")
def _head(build):
    head, x = build(8, seed=3), torch.randn(5, 8, dtype=torch.float64)
    q, k, v = (x[None] @ w for w in (head.W_Q, head.W_K, head.W_V))
    for causal in (False, True):
        close(head(x, causal), F.scaled_dot_product_attention(q, k, v, is_causal=causal)[0])


@compares("positional_encoding/sinusoid")
def _sinusoid(build):
    close(build(70, 12), positions.sinusoidal(70, 12, dtype=torch.float64))
    close(build(9, 4, 100.0), positions.sinusoidal(9, 4, base=100.0, dtype=torch.float64))


@compares("positional_encoding/bucket")
def _bucket(build):
    for how in ({}, {"n_buckets": 16, "max_distance": 32}):
        library = positions.t5_bucket(-torch.arange(300), bidirectional=False, **how)
        assert [build(i, **how) for i in range(300)] == library.tolist()


@compares("positional_encoding/alibi")
def _alibi(build):
    for heads, n in ((4, 9), (8, 5)):
        seen = torch.ones(n, n).tril().bool()
        close(build(heads, n)[:, seen], positions.alibi_bias(heads, n, n)[0][:, seen], 1e-6)


@compares("positional_encoding/rope")
def _rope(build):
    x, where = torch.randn(7, 12, dtype=torch.float64), torch.arange(7)
    for base in (10_000.0, 100.0):
        library = positions.Rotary(12, base=base, layout="interleaved").rotate(x, where)
        close(torch.stack([build(row, t, base) for t, row in enumerate(x)]), library, 1e-6)


# --- the Transformer


@compares("transformer/LayerNorm")
def _layer_norm(build):
    ours, x = build(6).double(), 3 * torch.randn(4, 6, dtype=torch.float64) + 1
    with torch.no_grad():
        ours.gain.copy_(torch.rand(6)), ours.bias.copy_(torch.rand(6))
    close(ours(x), F.layer_norm(x, (6,), ours.gain, ours.bias))


@compares("transformer/rms_norm")
def _rms_norm(build):
    from llmbook.layers import rms_norm

    x, gain = torch.randn(4, 6, dtype=torch.float64) + 1, torch.rand(6, dtype=torch.float64)
    close(build(x, gain), rms_norm(x, gain))


@compares("transformer/Transformer")
def _transformer(build):
    from llmbook.experiments.translator import page_names
    from llmbook.models.transformer import Transformer, TransformerConfig

    for place, layers in (("pre", 2), ("post", 1)):
        sizes = {"n_encoder_layers": layers, "n_decoder_layers": layers, "d_ff": 20}
        config = TransformerConfig(11, 12, 3, placement=place, dropout=0.0, **sizes)
        library, ours = Transformer(config).double(), build(11, 12, 3, 20, layers, place).double()
        with torch.no_grad():  # norms and biases that show
            for p in library.parameters():
                p.add_(0.3 * torch.randn_like(p))
        ours.load_state_dict(page_names(library.state_dict()))
        source, written = torch.randint(3, 11, (2, 7)), torch.randint(3, 11, (2, 5))
        mask = torch.arange(7) < torch.tensor([[7], [4]])
        close(ours(source, written, mask), library(source, written, mask), 1e-5)
        close(ours(source, written), library(source, written), 1e-5)
        want = torch.autograd.grad(
            library(source, written, mask).square().sum(), library.tokens.weight
        )
        got = torch.autograd.grad(ours(source, written, mask).square().sum(), ours.table.weight)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


# --- the families


@compares("families/masks")
def _masks(build):
    from llmbook.figures.families import FAMILIES, family_mask

    for source, target in ((4, 3), (1, 1), (6, 4)):
        n = source + target
        want = [
            family_mask(FAMILIES[0], n),
            family_mask(FAMILIES[1], n),
            family_mask(FAMILIES[2], source, target),
        ]
        assert [m.tolist() for m in build(source, target)] == [m.tolist() for m in want]


@compares("families/Block")
def _family_block(build):
    from llmbook.models.decoder import Places

    config = GPTConfig(vocab_size=5, max_len=9, d_model=12, n_layers=1, n_heads=4)
    theirs, ours = GPT(config).double().blocks[0], build(12, 4).double()
    for mine, its in (
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("attend", "attention"),
        ("ffn", "ffn"),
    ):
        getattr(ours, mine).load_state_dict(getattr(theirs, its).state_dict())
    (x,) = _draw(3, (2, 7, 12))
    close(ours(x, causal=True), theirs(x, Places(torch.arange(7), mask=None, kept=None)), 1e-9)
    other = x.clone()
    other[:, -1, 0] += 1
    assert not torch.allclose(ours(x, causal=False)[:, 0], ours(other, causal=False)[:, 0])


@compares("families/cut_spans")
def _cut_spans(build):
    from llmbook.data.corruption import corrupt_spans, random_spans

    g = torch.Generator().manual_seed(3)
    for n in (20, 57, 64):
        row = list(range(100, 100 + n))
        spans = random_spans(n, generator=g)
        marks = list(range(1, 2 + len(spans)))
        assert build(row, spans, marks) == corrupt_spans(row, spans, marks)


@compares("families/put_back")
def _put_back(build):
    from llmbook.data.corruption import corrupt_spans, random_spans

    g = torch.Generator().manual_seed(4)
    for n in (20, 57, 64):
        row = list(range(100, 100 + n))
        spans = random_spans(n, generator=g)
        marks = list(range(1, 2 + len(spans)))
        assert build(*corrupt_spans(row, spans, marks), marks) == row


# --- today's decoder


@compares("todays_decoder/GPTBlock")
def _gpt_block(build):
    from llmbook.models.decoder import Places

    config = GPTConfig(vocab_size=5, max_len=9, d_model=12, n_layers=1, n_heads=3)
    theirs, ours = GPT(config).double().blocks[0], build(12, 3).double()
    with torch.no_grad():  # norms and biases that show
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for name in ("norm1", "norm2"):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
        for name in ("up", "down"):
            getattr(ours, name).load_state_dict(getattr(theirs.ffn, name).state_dict())
        rows = zip(
            (ours.q, ours.k, ours.v),
            theirs.attention.in_proj_weight.chunk(3),
            theirs.attention.in_proj_bias.chunk(3),
            strict=True,
        )
        for linear, weight, bias in rows:
            linear.weight.copy_(weight), linear.bias.copy_(bias)
        ours.o.load_state_dict(theirs.attention.out_proj.state_dict())
    (x,) = _draw(3, (2, 7, 12))
    close(ours(x), theirs(x, Places(torch.arange(7), mask=None, kept=None)), 1e-9)


@compares("todays_decoder/rotate")
def _todays_rotate(build):
    (x,) = _draw(5, (2, 3, 7, 8))
    for start in (0, 5):
        want = positions.Rotary(8).rotate(x, torch.arange(start, start + 7))
        close(build(x, start), want, 1e-5)


@compares("todays_decoder/Decoder")
def _todays_decoder(build):
    from llmbook.experiments.todays_decoder import page_names
    from llmbook.models.llama import Llama
    from llmbook.models.qwen import Qwen3

    size = {"d_model": 12, "n_layers": 2, "n_heads": 6, "n_kv_heads": 2, "d_ff": 20}
    for library, qk_norm in ((Llama, False), (Qwen3, True)):
        config = library.config_class(11, 32, **size, eps=1e-6, tied=True)
        theirs = library(config).double()
        with torch.no_grad():  # norms that show
            for p in theirs.parameters():
                p.add_(0.3 * torch.randn_like(p))
        ours = build(11, 12, 6, 2, 20, 2, qk_norm).double()
        ours.load_state_dict(page_names(theirs.state_dict()))
        close(ours(ids := torch.randint(11, (2, 9))), theirs(ids), 1e-5)


# --- inference


def _cuts(build, name, values):
    from llmbook.decoding import probabilities

    for seed, value in enumerate(values):
        logits = 2 * torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
        for row in logits.double():
            close(build(row.softmax(-1), value), probabilities(row, **{name: value}), 1e-6)


@compares("inference/top_k")
def _top_k(build):
    _cuts(build, "top_k", (1, 7, 50))


@compares("inference/top_p")
def _top_p(build):
    _cuts(build, "top_p", (0.05, 0.5, 0.9, 0.999))


@compares("inference/min_p")
def _min_p(build):
    _cuts(build, "min_p", (0.01, 0.2, 0.9))


@compares("inference/penalised")
def _penalised(build):
    from llmbook.decoding.samplers import repetition_penalty

    logits = 2 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    for seen in ([3], [0, 7, 7, 49], list(range(50))):
        seen = torch.tensor(seen)
        for penalty in (0.8, 1.0, 1.3):
            want = repetition_penalty(logits[None], seen[None], penalty)[0]
            close(build(logits, seen, penalty), want, 1e-6)


@compares("inference/beam")
def _beam(build):
    from llmbook.decoding import generate
    from llmbook.models import load

    model, ids = load("small").eval(), torch.tensor([[0, 40, 41]])
    with torch.no_grad():
        for width in (1, 2, 5):
            text, log_p = build(model, ids, 8, width)
            want = generate(model, ids, max_new_tokens=8, beams=width, eos_id=())
            assert text.tolist() == want.tolist()
            nats = model(text)[0, 2:-1].log_softmax(-1).gather(1, text[0, 3:, None])
            assert abs(nats.sum().item() - log_p) < 1e-4


@compares("inference/write")
def _write(build):
    from llmbook.decoding import generate
    from llmbook.models import load

    model, ids = load("small").eval(), torch.tensor([[0, 40, 41]])
    with torch.no_grad():
        for ends in ((), (93,)):
            want = generate(model, ids, max_new_tokens=12, eos_id=ends)
            got = build(model, ids, 12, lambda z: z.argmax().item(), ends)
            assert got.tolist() == want.tolist()
        end = want[0, 6].item()
        want = generate(model, ids, max_new_tokens=12, eos_id=end)
        assert build(model, ids, 12, lambda z: z.argmax().item(), (end,)).tolist() == want.tolist()
        assert want.shape[1] < 15


@compares("inference/rounded")
def _rounded(build):
    from llmbook.quantization import quantize_weight

    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    for bits, group in ((8, 64), (4, 16), (4, 32)):
        q, scale = quantize_weight(w, bits, group)
        want = (q.unflatten(-1, (-1, group)) * scale[..., None]).flatten(-2)
        torch.testing.assert_close(build(w, bits, group), want)


@compares("inference/fit_turns")
def _fit_turns(build):
    turns = [("system", "abc")] + [(who, "x" * n) for n in (5, 4, 3, 2, 1) for who in ("user",)]
    turns = [turns[0], *((("user", "assistant")[i % 2], t) for i, (_, t) in enumerate(turns[1:]))]
    for first in (turns, turns[1:]):
        kept = first[:1] if first is turns else []
        rest = first[len(kept) :]
        for limit in range(4, 25):
            fits = [
                kept + rest[i:]
                for i in range(0, len(rest), 2)
                if sum(len(text) for _, text in kept + rest[i:]) <= limit
            ]
            if fits:
                assert build(list(first), limit, len) == fits[0]
    try:
        build(turns, 3, len)
    except ValueError as error:
        assert "too long" in str(error)
    else:
        raise AssertionError("a question that is too long must be refused")


@compares("inference/guess_ahead")
def _guess_ahead(build):
    from llmbook.experiments.draft_heads import DraftHeads

    model = GPT(GPTConfig(23, 10, 16, 1, 2))
    some = DraftHeads(model, 4)
    for one in some.maps:
        torch.nn.init.normal_(one.weight)
    (h,) = _draw(3, (5, 16))
    got = build(h.float(), [one.weight for one in some.maps], model.head)
    assert torch.equal(torch.stack(list(got)), some(h.float()).argmax(-1))


@compares("inference/verify")
def _verify(build):
    from llmbook.decoding.speculative import acceptance, residual

    p, q = (torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) + 0.05).unbind()
    p, q = p / p.sum(), q / q.sum()
    dice, n = torch.Generator().manual_seed(2), 4000
    for guess in (0, 3, 5):
        stood = torch.zeros(())
        instead = torch.zeros(6)
        for _ in range(n):
            token, ok = build(p, q, guess, dice)
            stood += ok
            instead[token] += not ok
            assert not ok or token == guess
        limit = acceptance(p, q)[guess]
        assert (stood / n - limit).abs() < 4 * (limit * (1 - limit) / n).sqrt() + 1e-6
        if n - stood > 100:
            assert (instead / instead.sum() - residual(p, q)).abs().max() < 0.08


# --- moe


def experts_of(layer):
    """The matrices of a `MoE`'s experts, as the chapter has them: (gate, up, down) each."""
    width = layer.config.d_expert
    pairs = zip(layer.experts.in_weight, layer.experts.down_weight, strict=True)
    return [(both[:width], both[width:], down) for both, down in pairs]


@compares("moe/expert")
def _expert(build):
    layer = moe.MoE(moe.MoEConfig(6, 10, 1, 1)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    ours = torch.stack([build(row, *experts_of(layer)[0]) for row in x])
    torch.testing.assert_close(ours, layer(x), rtol=0, atol=1e-12)


@compares("moe/mixture")
def _mixture(build):
    layer = moe.MoE(moe.MoEConfig(6, 10, 5, 2)).double()
    x = 3 * torch.randn(9, 6, dtype=torch.float64)
    ours = build(x, layer.router.weight, experts_of(layer), 2)
    torch.testing.assert_close(ours, layer(x), rtol=0, atol=1e-12)


@compares("moe/balance_loss")
def _balance_loss(build):
    for k in (1, 3):
        logits = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
        routing = moe.route(logits, k, "softmax_before")
        ours, theirs = build(routing.probabilities, routing.chosen), moe.balance_loss(routing)
        torch.testing.assert_close(ours, theirs)
        slopes = [torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (ours, theirs)]
        torch.testing.assert_close(*slopes)


@compares("moe/within_capacity")
def _within_capacity(build):
    routing = moe.route(torch.randn(30, 4) + torch.arange(4), 2)
    limited = moe.limit_capacity(routing, 1.0)  # 15 tokens an expert
    assert limited.dropped > 0
    assert torch.equal(build(routing.chosen, 4, 15), limited.chosen >= 0)


# --- supervised fine-tuning


@compares("sft/shifted")
def _shifted(shifted):
    from llmbook.alignment.chat import Encoded
    from llmbook.alignment.sft import targets_of

    for counts in ([False, True, False, True, True], [True, False, False, False, True]):
        encoded = Encoded([5, 3, 9, 7, 2], counts)
        assert shifted(encoded.ids, encoded.counts) == targets_of(encoded)[1]


@compares("sft/answer_loss")
def _answer_loss(build):
    from llmbook.losses import IGNORED, next_token_loss

    (logits,) = _draw(4, (2, 6, 11))
    targets = torch.tensor([[3, 0, IGNORED, 10, 1, 2], [IGNORED, IGNORED, 4, 4, IGNORED, 0]])
    close(build(logits, targets), next_token_loss(logits, targets))


@compares("sft/wilson")
def _wilson(build):
    from llmbook.evaluation import wilson

    for right, n in ((0, 10), (7, 10), (63, 64)):
        close(torch.tensor(build(right, n)), torch.tensor(wilson(right, n)), 1e-4)


@compares("sft/documents_mask")
def _documents_mask(build):
    from llmbook.ragged import Texts

    numbers = torch.tensor([1, 1, 1, 2, 3, 3, 3, 3, 0, 0])
    texts, ours = Texts(numbers[None]), build(numbers)
    parts = texts.apart(torch.eye(8)[None, None])  # each token is marked by its place
    seen = texts.together([torch.ones(p.shape[2], p.shape[2]).tril() @ p for p in parts])
    assert torch.equal(ours[:8, :8], seen[0, 0] > 0) and not ours[:8, 8:].any()


@compares("sft/changed")
def _changed(build):
    from llmbook.alignment.lora import LoRA, LoRAConfig
    from llmbook.models.gpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=5, max_len=12, d_model=4, n_layers=1, n_heads=1)).double()
    lora = LoRA(model, LoRAConfig(rank=3, alpha=5.0, targets=("ffn.up",)))
    (name,) = lora.names
    A, B = lora.A[name.replace(".", "/")], lora.B[name.replace(".", "/")]
    with torch.no_grad():
        B.copy_(_draw(6, tuple(B.shape))[0])
        library = dict(lora.merged().named_parameters())[name]
        close(build(dict(model.named_parameters())[name], A, B, 5.0), library)


# --- reasoning


@compares("reasoning/pass_at_k")
def _pass_at_k(build):
    from llmbook.experiments.reasoning.judges import pass_at_k

    for n, c, k in ((9, 4, 3), (64, 1, 64), (5, 0, 2), (5, 5, 1)):
        assert build(n, c, k) == pass_at_k(n, c, k)


@compares("reasoning/advantages")
def _advantages(build):
    from llmbook.alignment.grpo import group_advantages

    rewards = torch.randn(12, generator=torch.Generator().manual_seed(1))
    for scale in (True, False):
        close(build(rewards, 4, scale), group_advantages(rewards, 4, scale), 1e-6)


@compares("reasoning/grpo_loss")
def _grpo_loss(build):
    from llmbook.alignment.grpo import FORMS, GRPOConfig, grpo_loss

    g = torch.Generator().manual_seed(2)
    old, moved, reference = -torch.rand(3, 6, 5, generator=g)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5])[:, None]
    advantages = torch.randn(6, generator=g)
    for form in FORMS:
        for beta in (0.0, 0.3):
            config = GRPOConfig(form, beta=beta, max_new_tokens=7)
            want, _ = grpo_loss(moved, old, advantages, mask, config, reference)
            how = {"longest": 7, "beta": beta, "reference": reference}
            close(build(moved, old, advantages, mask, form, **how), want, 1e-5)


# --- tokenization


def _words(text):
    """Words as the chapter's `learn` takes them, bytes in the library's order, and that order."""
    from collections import Counter

    from llmbook.tokenization import split
    from llmbook.tokenization.byte_names import BYTE_ORDER

    place = {byte: i for i, byte in enumerate(BYTE_ORDER)}
    counted = Counter(split(text))
    words = {tuple(place[b] for b in piece.encode()): n for piece, n in counted.items()}
    return words, [bytes([byte]) for byte in BYTE_ORDER]


TEXT = "the cat sat on the mat, aaaa aaa; the other cat sat on the other mat 1212\n" * 3


@compares("tokenization/count_pairs")
def _count_pairs(build):
    words, _ = _words(TEXT)
    want = {}
    for word, n in words.items():
        for i in range(len(word) - 1):
            want[word[i : i + 2]] = want.get(word[i : i + 2], 0) + n
    assert dict(build(words)) == want


@compares("tokenization/merge_pair")
def _merge_pair(build):
    from llmbook.tokenization.trainer import merge

    for word, pair in (((1, 1, 1, 2), (1, 1)), ((1, 2, 3, 1, 2), (1, 2)), ((3,), (1, 2))):
        assert build(word, pair, 9) == tuple(merge(word, pair, 9))


@compares("tokenization/learn")
def _learn(build):
    from llmbook.tokenization import BPETokenizer

    words, tokens = _words(TEXT)
    learned = build(words, tokens, 12)
    library = BPETokenizer.train(TEXT, 256 + 12, (), backend="python")
    assert [(tokens[a], tokens[b]) for a, b in learned] == library.merges


# --- pretraining


@compares("pretraining/cut_windows")
def _cut_windows(build):
    from llmbook.data.packing import Windows

    ids = torch.randint(50, (200,), generator=torch.Generator().manual_seed(1))
    for length in (7, 10):
        windows = Windows(ids, length, seed=3)
        starts = windows.starts(0)
        x, y = windows.batch(0, len(windows))
        order = starts.argsort()
        ours = [part[: len(windows)] for part in build(ids[starts.min() :], length)]
        assert torch.equal(ours[0], x[order]) and torch.equal(ours[1], y[order])
        n = (len(ids) - 1) // length
        assert len(build(ids, length)[0]) == n == len(build(ids[: n * length + 1], length)[0])


@compares("pretraining/cross_entropy")
def _cross_entropy(build):
    from llmbook.losses import next_token_loss

    logits, targets = _draw(3, (6, 9))[0], torch.tensor([0, 8, 3, 3, 1, 2])
    close(build(logits, targets), next_token_loss(logits[None], targets[None]))
    assert torch.isfinite(build(1000 * logits, targets))


@compares("pretraining/adamw")
def _adamw(build):
    from llmbook.training.optim import AdamW

    (begin,) = _draw(5, (4, 3))
    mine, state, other = begin.clone(), {}, torch.nn.Parameter(begin.clone())
    library = AdamW([other], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(20):
        (other.grad,) = _draw(100 + step, (4, 3))
        mine = build(mine, other.grad.clone(), state, 0.02)
        library.step()
    close(mine, other.detach())


@compares("pretraining/orthogonalise")
def _orthogonalise(build):
    from llmbook.training.optim import orthogonalise

    for shape in ((5, 9), (9, 5), (6, 6)):
        (m,) = _draw(6, shape)
        close(build(m), orthogonalise(m), 1e-10)


@compares("pretraining/muon")
def _muon(build):
    from llmbook.training.optim import Muon

    (begin,) = _draw(8, (4, 7))
    mine, state, other = begin.clone(), {}, torch.nn.Parameter(begin.clone())
    library = Muon([other], lr=0.02, weight_decay=0.1)
    for step in range(12):
        (other.grad,) = _draw(200 + step, (4, 7))
        mine = build(mine, other.grad.clone(), state, 0.02)
        library.step()
    close(mine, other.detach(), 1e-10)


@compares("pretraining/clip")
def _clip(build):
    from llmbook.training.optim import clip_gradients

    for most in (0.5, 100.0):
        weights = [torch.nn.Parameter(w) for w in _draw(7, (3, 4), (5,))]
        for w in weights:
            w.grad = w.detach().clone()
        ours = build([w.grad.clone() for w in weights], most)
        clip_gradients(weights, most)
        for mine, w in zip(ours, weights, strict=True):
            close(mine, w.grad)


@compares("pretraining/rate")
def _rate(build):
    from llmbook.training.schedules import cosine

    for step in (0, 5, 19, 20, 21, 70, 99, 100):
        assert math.isclose(build(step, 100), 6e-3 * cosine(step, 100, 20, 0.05))


# --- the outlook


@compares("outlook/patch_tokens")
def _patch_tokens(build):
    from llmbook.data.shapes import patches

    image, weight, bias = _draw(1, (3, 16, 16, 3), (7, 48), (7,))
    close(build(image, weight, bias), patches(image) @ weight.T + bias)
    weight = _draw(2, (5, 192))[0]
    close(build(image, weight, None, size=8), patches(image, 8) @ weight.T)


@compares("outlook/bm25")
def _bm25(build):
    from llmbook.experiments.outlook.retrieval import Search

    texts = ["a b b c", "b", "c c c c d", "e a"]
    for query in ("a b", "c", "e e z", ""):
        for k, b in ((1.5, 0.75), (0.5, 0.0)):
            close(
                torch.tensor(build(texts, query, k, b), dtype=torch.float64),
                torch.tensor(Search(texts, k, b).scores(query), dtype=torch.float64),
            )


@compares("outlook/masked_loss")
def _masked_loss(build):
    from llmbook.experiments.outlook.diffusion import masked_loss

    logits, t = _draw(3, (4, 6, 9), (4, 1))
    x = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(1))
    hidden = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    t = t.abs() + 0.1
    close(build(logits, x, hidden, t), masked_loss(logits, x, hidden, t))


# --- what is inside


@compares("inside/through")
def _through(build):
    from llmbook.experiments.inside.streams import through

    torch.manual_seed(0)
    model = GPT(GPTConfig(11, 9, 16, 3, 2)).double()
    ids = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(1))
    for change in (None, lambda layer, x: x + layer):
        for ours, theirs in zip(
            build(model, ids, change), through(model, ids, change), strict=True
        ):
            close(ours, theirs)
    close(build(model, ids)[1], model(ids))


@compares("inside/move")
def _move(build):
    from llmbook.experiments.inside.walker import move

    x, weight, bias = _draw(2, (5, 6), (16, 6), (16,))
    here, there = torch.tensor([0, 3, 5, 5, 15]), torch.tensor([1, 2, 9, 0, 7])
    for strength in (1.0, 4.0):
        close(
            build(x, weight, bias, here, there, strength),
            move(x, weight, bias, here, there, strength),
        )


@compares("inside/patched")
def _patched(build):
    from llmbook.experiments.inside.opened import patched

    torch.manual_seed(0)
    model = GPT(GPTConfig(11, 9, 16, 3, 2)).double()
    clean, other = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 7, 3, 4, 5]])
    for layer, place in ((0, 1), (2, -1), (3, 1)):
        ours = build(model, clean, other, layer, place, (5, 8))
        assert abs(ours - patched(model, clean, other, layer, place, (5, 8))) < 1e-10


@compares("inside/sharpen")
def _sharpen(build):
    p = torch.tensor([0.7, 0.2, 0.1]).double()
    for T in (0.25, 1.0, 2.0):
        close(build(p, T), (p.log() / T).softmax(-1))
