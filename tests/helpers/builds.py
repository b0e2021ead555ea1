"""What notebooks build, held to the library: one comparison a name, raising where they differ."""

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
