"""What notebooks build, held to the library: one comparison a name, raising where they differ."""

import torch
import torch.nn.functional as F

from llmbook import positions

COMPARISONS = {}


def compares(name):
    """Register the function below as the comparison for `"notebook/name"`."""

    def register(function):
        COMPARISONS[name] = function
        return function

    return register


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


# --- positions


def close(ours, library, tolerance=1e-12):
    torch.testing.assert_close(
        torch.as_tensor(ours).double(), library.double(), rtol=0, atol=tolerance
    )


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
