"""Scaling laws: a loss as a function of parameters and tokens, its fit, and what it advises.

    L(N, D) = E + A / N^α + B / D^β          N parameters, D tokens, L in nats a token
    C = 6 N D                                FLOPs of a training

E is what no model of the family gets below: the entropy of the text, as this family sees it. For a
budget C the law has one best size: N* = G (C/6)^(β/(α+β)), D* = (C/6)^(α/(α+β)) / G, with
G = (α A / (β B))^(1/(α+β)). Source: Hoffmann et al. 2022, approach 3; its refit, Besiroglu et al.
2024. Kaplan et al. 2020 have the same two terms without E.
"""

from dataclasses import astuple, dataclass

import torch

from llmbook import checks

FLOPS_A_TOKEN = 6  # for each parameter: 2 forward, 4 backward
HUBER = 1e-3  # residuals of log L beyond this count linearly, as in Hoffmann et al.


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^α + B / D^β: the five constants, in nats a token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __post_init__(self):
        for name in ("E", "A", "B", "alpha", "beta"):
            checks.number(name, getattr(self, name), least=0)

    def loss(self, n, d):
        """The loss of n parameters after d tokens, in nats a token; numbers or arrays."""
        return self.E + self.A / n**self.alpha + self.B / d**self.beta

    def optimum(self, flops):
        """(parameters, tokens) of the lowest loss that `flops` FLOPs of training reach."""
        total = self.alpha + self.beta
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        product = flops / FLOPS_A_TOKEN
        return g * product ** (self.beta / total), product ** (self.alpha / total) / g

    @property
    def exponents(self):
        """(a, b) of N* ∝ C^a and D* ∝ C^b; a + b = 1."""
        total = self.alpha + self.beta
        return self.beta / total, self.alpha / total

    def cheapest(self, loss, served=0.0):
        """(parameters, tokens, FLOPs) that reach a loss at least cost, serving included.

        served: tokens that the model will read and write in its life, at 2 FLOPs a parameter each:
        6 N D + 2 N · served is least. Source: Sardana et al. 2024. Raises ValueError for a loss
        that no size reaches.
        """
        if not loss > self.E:
            raise ValueError(f"loss must be above E = {self.E}: got {loss}")
        # A / N^α < loss − E bounds N from below; the cost has one minimum above it.
        least = (self.A / (loss - self.E)) ** (1 / self.alpha)
        n = least * torch.logspace(1e-3, 6, 20_001, dtype=torch.float64)
        d = (self.B / (loss - self.E - self.A / n**self.alpha)) ** (1 / self.beta)
        cost = FLOPS_A_TOKEN * n * d + 2 * n * served
        best = int(cost.argmin())
        return n[best].item(), d[best].item(), cost[best].item()


# As printed in the paper; the same fit with the digits of its source; a refit of its data.
PUBLISHED = {
    "Hoffmann et al. 2022, as printed": Law(1.69, 406.4, 410.7, 0.34, 0.28),
    "Hoffmann et al. 2022, unrounded": Law(1.6934, 406.4, 410.7, 0.3392, 0.2849),
    "Besiroglu et al. 2024": Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
}

# (FLOPs, parameters): the size of lowest loss at each budget of a public table, the data set
# "isoflops", by `valley`. Its 72 losses lie so near to curves that they look computed.
TABLE_OPTIMA = (
    (6e18, 6.08e8),
    (1e19, 8.01e8),
    (3e19, 1.41e9),
    (6e19, 2.01e9),
    (1e20, 2.62e9),
    (3e20, 4.50e9),
    (6e20, 6.57e9),
    (1e21, 8.58e9),
    (3e21, 1.50e10),
)


# --- fits


def fit(n, d, loss, *, weights=None, irreducible=True, starts=64, steps=300, seed=0):
    """The law of least Huber loss between log L(N, D) and the logs of measured losses.

    n, d, loss: (runs,) parameters, tokens, nats. weights (runs,) or (fits, runs): how often each
    run counts; several rows are several fits, made at once (a bootstrap). irreducible=False holds
    E at 0. Returns a `Law`, or a list of them. Damped Gauss–Newton from `starts` points of a
    grid's kind, the best kept: the landscape is flat along E, so that one start is not enough.

    Raises ValueError for fewer runs than constants, or values that are not positive.
    """
    n, d, loss = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (n, d, loss))
    if not len(n) == len(d) == len(loss) >= 5:
        raise ValueError(
            "n, d and loss must have one length of at least 5: got "
            f"{len(n)}, {len(d)}, {len(loss)}"
        )
    if min(n.min(), d.min(), loss.min()) <= 0:
        raise ValueError("n, d and loss must be above 0")
    one = weights is None or torch.as_tensor(weights).ndim == 1
    weights = torch.ones(len(n)) if weights is None else torch.as_tensor(weights)
    weights = weights.to(torch.float64).reshape(-1, len(n))
    checks.whole("starts", starts, least=1)

    # θ = (log E, log A, log B, α, β): every constant but the exponents as its logarithm.
    generator = torch.Generator().manual_seed(seed)
    low, high = loss.min().log(), loss.max().log()
    theta = torch.rand(starts, 5, generator=generator, dtype=torch.float64)
    theta[:, 0] = low - 2 * theta[:, 0]
    theta[:, 3:] = 0.1 + 0.7 * theta[:, 3:]
    middle = torch.stack([n.log().mean(), d.log().mean()])
    theta[:, 1:3] = high - 2 + 2 * theta[:, 1:3] + theta[:, 3:] * middle
    theta = theta.repeat(len(weights), 1)
    weights_each = weights.repeat_interleave(starts, 0)
    theta, value = _minimise(theta, weights_each, n.log(), d.log(), loss.log(), irreducible, steps)
    best = value.view(-1, starts).argmin(-1)
    chosen = theta.view(-1, starts, 5)[torch.arange(len(best)), best]
    laws = [
        Law(e.exp().item() if irreducible else 0.0, a.exp().item(), b.exp().item(), *exps.tolist())
        for e, a, b, exps in zip(*chosen[:, :3].unbind(-1), chosen[:, 3:], strict=True)
    ]
    return laws[0] if one else laws


def _minimise(theta, weights, log_n, log_d, log_loss, irreducible, steps):
    """Damped Gauss–Newton on rows θ (fits, 5) at once: (θ, Huber losses (fits,))."""
    damping = torch.full((len(theta), 1), 1e-2, dtype=torch.float64)
    free = torch.ones(5, dtype=torch.float64)
    free[0] = float(irreducible)

    def terms(theta):
        """Residuals of log L (fits, runs), and each term's share of L (fits, runs, 3)."""
        logs = torch.stack(
            [
                theta[:, 0:1].expand(-1, len(log_n)),
                theta[:, 1:2] - theta[:, 3:4] * log_n,
                theta[:, 2:3] - theta[:, 4:5] * log_d,
            ],
            -1,
        )
        if not irreducible:
            logs[..., 0] = -torch.inf
        predicted = logs.logsumexp(-1)
        return predicted - log_loss, (logs - predicted[..., None]).exp()

    def huber(residual):
        size = residual.abs()
        each = torch.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2))
        return (weights * each).sum(-1)

    residual, share = terms(theta)
    value = huber(residual)
    for _ in range(steps):
        slopes = [share, -share[..., 1:2] * log_n[:, None], -share[..., 2:3] * log_d[:, None]]
        jacobian = torch.cat(slopes, -1) * free  # (fits, runs, 5)
        trust = weights * (HUBER / residual.abs().clamp(min=HUBER))  # Huber, as weights
        weighted = jacobian * trust[..., None]
        gradient = (weighted * residual[..., None]).sum(1)
        square = jacobian.mT @ weighted
        scale = square.diagonal(dim1=1, dim2=2).clamp(min=1e-12)
        move = torch.linalg.solve(square + torch.diag_embed(damping * scale + 1e-12), gradient)
        trial = theta - move.clamp(-1, 1)
        trial[:, 3:].clamp_(0.01, 3)
        trial_residual, trial_share = terms(trial)
        trial_value = huber(trial_residual)
        better = trial_value < value
        theta = torch.where(better[:, None], trial, theta)
        residual = torch.where(better[:, None], trial_residual, residual)
        share = torch.where(better[:, None, None], trial_share, share)
        value = torch.where(better, trial_value, value)
        damping = torch.where(better[:, None], damping / 3, damping * 2).clamp(1e-12, 1e12)
    return theta, value


def bootstrap(n, d, loss, *, fits=200, seed=0, **options):
    """Laws fitted to as many runs drawn with replacement, `fits` times: a list.

    Draws with fewer than 5 different runs are drawn again.
    """
    checks.whole("fits", fits, least=1)
    generator, runs, rows = torch.Generator().manual_seed(seed), len(n), []
    while len(rows) < fits:
        drawn = torch.randint(runs, (runs,), generator=generator).bincount(minlength=runs)
        if (drawn > 0).sum() >= min(5, runs):
            rows.append(drawn)
    return fit(n, d, loss, weights=torch.stack(rows), **{"starts": 8, **options})


def line(x, y):
    """log y = c + slope · log x by least squares: (slope, c, share of variance explained)."""
    x, y = (torch.as_tensor(v, dtype=torch.float64).log() for v in (x, y))
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx @ dy) / (dx @ dx)
    rest = dy - slope * dx
    return slope.item(), (y.mean() - slope * x.mean()).item(), (1 - rest @ rest / (dy @ dy)).item()


def valley(n, loss):
    """The size of lowest loss at one budget, from a parabola of loss over log N.

    Returns (N, loss there, curvature). Raises ValueError where the parabola has no lowest point.
    """
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (n, loss))
    if len(x) < 3:
        raise ValueError(f"a parabola needs at least 3 sizes: got {len(x)}")
    x = x.log()
    middle = x.mean()
    powers = torch.stack([(x - middle) ** k for k in range(3)], -1)
    c, b, a = torch.linalg.lstsq(powers, y[:, None]).solution[:, 0].tolist()
    if a <= 0:
        raise ValueError("the losses have no lowest point: they bend down")
    lowest = middle.item() - b / (2 * a)
    return torch.tensor(lowest).exp().item(), c - b * b / (4 * a), a


def constants(law):
    """A law as a dict of rounded constants, for a table."""
    return dict(
        zip(("E", "A", "B", "alpha", "beta"), (round(x, 4) for x in astuple(law)), strict=True)
    )
