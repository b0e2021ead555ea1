"""Interactive: the online softmax, tile by tile, as FlashAttention walks over the scores."""

from dataclasses import dataclass

import numpy as np
import traitlets

from llmbook.checks import whole

from .interactive import Interactive, numbers

SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class TileStep:
    """One tile done: its first query and key; m, l and output of its queries before and after.

    m_before, m, l, fade: (queries of the tile,); acc: (queries of the tile, value_dim),
    unnormalised.
    """

    query: int
    key: int
    m_before: np.ndarray
    m: np.ndarray
    fade: np.ndarray
    l: np.ndarray
    acc: np.ndarray


class TiledSoftmax(Interactive):
    """Exact attention with one tile of scores in hand at a time.

    For a block of queries, tile after tile of keys, with S the tile's scores and V its values:

        m' = max(m, max S),  fade = e^{m - m'},
        l' = fade · l + Σ e^{S - m'},  o' = fade · o + e^{S - m'} V

    and at the end of the row o / l. `scores` (n, n) and `values` (n, d) are fixed; `block` (1, 2,
    4 or 8, dividing n) is the side of a tile, `causal` leaves out tiles that lie wholly above the
    diagonal, `step` counts the tiles done. `walk` computes the same in Python.

    Raises ValueError for scores that are not square, sizes that do not fit, or numbers that are
    not finite.
    """

    script = "tiles.js"
    alt = traitlets.Unicode(
        "A matrix of attention scores, worked off tile by tile. Beside it, for each query of the "
        "present block: the running maximum, the running sum and the output, corrected whenever "
        "the maximum grows."
    ).tag(sync=True)
    scores = traitlets.List().tag(sync=True)
    values = traitlets.List().tag(sync=True)
    block = traitlets.Int(2).tag(sync=True)
    causal = traitlets.Bool(False).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, scores=None, values=None, block=2, causal=False, step=0, **kwargs):
        scores, values = _checked(scores, values)
        if block not in SIZES or len(scores) % block:
            raise ValueError(f"block must be one of {SIZES} and divide {len(scores)}: got {block}")
        super().__init__(
            scores=numbers(scores, 3),
            values=numbers(values, 3),
            block=block,
            causal=causal,
            **kwargs,
        )
        self.step = whole("step", step, least=0, most=len(self.walk()))

    def walk(self):
        """Every tile in order: queries block by block, and for each block its tiles of keys."""
        s, v, b = np.array(self.scores), np.array(self.values), self.block
        steps = []
        for q in range(0, len(s), b):
            m, total, acc = np.full(b, -np.inf), np.zeros(b), np.zeros((b, v.shape[1]))
            for k in range(0, q + b if self.causal else len(s), b):
                tile = s[q : q + b, k : k + b].copy()
                if self.causal:
                    tile[np.arange(k, k + b)[None] > np.arange(q, q + b)[:, None]] = -np.inf
                before, m = m, np.maximum(m, tile.max(1))
                fade, p = np.exp(before - m), np.exp(tile - m[:, None])
                total, acc = fade * total + p.sum(1), fade[:, None] * acc + p @ v[k : k + b]
                steps.append(TileStep(q, k, before, m, fade, total, acc))
        return steps

    def output(self):
        """Attention's output from the tiles: (n, d)."""
        last = {one.query: one for one in self.walk()}
        return np.concatenate([last[q].acc / last[q].l[:, None] for q in sorted(last)])

    def expected(self):
        """The same from the whole matrix at once: softmax(scores) values, (n, d)."""
        s = np.array(self.scores)
        if self.causal:
            s[np.triu(np.ones(s.shape, bool), 1)] = -np.inf
        p = np.exp(s - s.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True) @ np.array(self.values)


def _checked(scores, values):
    rng = np.random.default_rng(4)
    scores = 1.6 * rng.standard_normal((8, 8)) if scores is None else _array(scores)
    n = len(scores) if scores.ndim else 0
    if scores.shape != (n, n) or not 1 <= n <= 16:
        raise ValueError(f"scores must be (n, n) with n from 1 to 16: got {scores.shape}")
    values = rng.standard_normal((n, 1)) if values is None else _array(values)
    if values.ndim != 2 or len(values) != n or not 1 <= values.shape[1] <= 3:
        raise ValueError(f"values must be ({n}, 1 to 3), one row a key: got {values.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise ValueError("scores and values must be finite")
    return scores, values


def _array(value):
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
