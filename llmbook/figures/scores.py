"""Interactive: scaled dot-product attention by hand, every matrix in sight, every number open."""

import math

import numpy as np
import traitlets

from llmbook.checks import one_of, whole

from .interactive import Interactive, numbers

SIZE = 4
X = ((0.5, 0.2, -0.3, 0.8), (0.1, 0.9, 0.4, -0.2), (-0.4, 0.3, 0.7, 0.1), (0.6, -0.1, 0.2, 0.5))
EDITED = {"x": ("X", "WQ", "WK", "WV"), "qkv": ("Q", "K", "V")}
STEPS = ("Q, K, V", "scores", "scale", "mask", "weights", "output")


class AttentionScores(Interactive):
    """Attention on four tokens of four numbers, step by step, with editable matrices.

        scores = Q Kᵀ,  scaled = scores / √d_k,  weights = softmax over each row,
        output = weights V

    In mode "x" the reader edits X and the projections, and Q = X W_Q, K = X W_K, V = X W_V; in
    mode "qkv" Q, K and V themselves. `d_k` is how many columns of Q and K the scores use;
    `scaled` and `causal` switch the division and the mask. `step` (1 … 6) is how much of the
    computation is shown; `query` and `key` (0 … 3) choose the entry whose arithmetic is written
    out. `matrices` replaces some of the 4 × 4 matrices: X, WQ, WK, WV, Q, K, V. By default X is a
    fixed example and the projections are the identity.

    Raises ValueError for an unknown matrix, a wrong shape, numbers outside ±99 or settings out of
    range.
    """

    script = "scores.js"
    alt = traitlets.Unicode(
        "A calculator for attention on four tokens: queries, keys and values, their scores, the "
        "scaled and masked scores, the weights and the output. Every number of the input can "
        "be changed."
    ).tag(sync=True)
    mode = traitlets.Enum(("x", "qkv"), "x").tag(sync=True)
    matrices = traitlets.Dict().tag(sync=True)
    edited = traitlets.Unicode("X").tag(sync=True)
    d_k = traitlets.Int(SIZE).tag(sync=True)
    scaled = traitlets.Bool(True).tag(sync=True)
    causal = traitlets.Bool(False).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    key = traitlets.Int(0).tag(sync=True)
    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self, matrices=None, mode="x", d_k=SIZE, step=1, tokens=("1", "2", "3", "4"), **kwargs
    ):
        one_of("mode", mode, EDITED)
        if len(tokens) != SIZE:
            raise ValueError(f"tokens must be {SIZE} names: got {len(tokens)}")
        every = {
            "X": X,
            "WQ": np.eye(SIZE),
            "WK": np.eye(SIZE),
            "WV": np.eye(SIZE),
            "Q": X,
            "K": X,
            "V": X,
        }
        for name, matrix in dict(matrices or {}).items():
            one_of("each of matrices' names", name, every)
            every[name] = _checked(name, matrix)
        for name in ("query", "key"):
            whole(name, kwargs.get(name, 0), least=0, most=SIZE - 1)
        super().__init__(
            mode=mode,
            edited=EDITED[mode][0],
            matrices={name: numbers(matrix) for name, matrix in every.items()},
            d_k=whole("d_k", d_k, least=1, most=SIZE),
            step=whole("step", step, least=1, most=len(STEPS)),
            tokens=[str(token) for token in tokens],
            **kwargs,
        )

    def compute(self):
        """Every matrix of the present settings: Q, K, V, scores, scaled, masked, weights, output.

        Q and K: (4, d_k); V and output: (4, 4); the others (4, 4), with −inf where the mask
        forbids.
        """
        m = {name: np.array(matrix) for name, matrix in self.matrices.items()}
        if self.mode == "x":
            m.update({name: m["X"] @ m[f"W{name}"] for name in "QKV"})
        q, k = m["Q"][:, : self.d_k], m["K"][:, : self.d_k]
        scores = q @ k.T
        scaled = scores / math.sqrt(self.d_k) if self.scaled else scores
        forbidden = np.triu(np.ones((SIZE, SIZE), bool), 1) & self.causal
        masked = np.where(forbidden, -np.inf, scaled)
        weights = np.exp(masked - masked.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return {
            "Q": q,
            "K": k,
            "V": m["V"],
            "scores": scores,
            "scaled": scaled,
            "masked": masked,
            "weights": weights,
            "output": weights @ m["V"],
        }


def _checked(name, matrix):
    """A 4 × 4 float array, or a ValueError that says what is wrong."""
    array = np.asarray(matrix.detach() if hasattr(matrix, "detach") else matrix, dtype=float)
    if array.shape != (SIZE, SIZE):
        raise ValueError(f"matrices[{name!r}] must have shape ({SIZE}, {SIZE}): got {array.shape}")
    if not (np.abs(array) <= 99).all():  # also refuses nan
        raise ValueError(f"matrices[{name!r}] must hold numbers from -99 to 99")
    return array
