"""Interactive: the sinusoidal encoding of positions, its rotation and its three properties."""

import math

import numpy as np
import traitlets

from llmbook.checks import number, one_of, whole

from .interactive import Interactive

CODES = ("geometric", "equal")
MAX_DIM, MAX_LENGTH, MAX_BASE = 32, 64, 100_000


class PositionExplorer(Interactive):
    """The table PE(t, 2i) = sin(t ω_i), PE(t, 2i+1) = cos(t ω_i) and what can be read from it.

    Shows `length` positions by `d` dimensions as a heat map; the circle of one pair with PE(t)
    and PE(t + offset) on it; and PE(t) · PE(t + k) for every offset k. The reader chooses
    position, offset, pair, base and d. code "geometric" has ω_i = base^(−2i/d); "equal" is broken
    on purpose, every ω_i = 2π, so that all whole positions fall on the same point.

    `ticks` computes the three properties that the figure marks; the browser repeats it, and
    `encoding` and `similarity`, in its own numbers. Raises ValueError for a setting outside its
    slider.
    """

    script = "positions.js"
    alt = traitlets.Unicode(
        "A heat map of the sinusoidal position encoding, the circle on which one pair of "
        "dimensions turns, and the similarity of two encodings against their offset. Sliders set "
        "the position, the offset, the pair, the base and the number of dimensions."
    ).tag(sync=True)
    code = traitlets.Enum(CODES, "geometric").tag(sync=True)
    d = traitlets.Int(16).tag(sync=True)
    length = traitlets.Int(48).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    position = traitlets.Int(10).tag(sync=True)
    offset = traitlets.Int(7).tag(sync=True)
    pair = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        d=16,
        length=48,
        base=10_000,
        position=10,
        offset=7,
        pair=1,
        code="geometric",
        **kwargs,
    ):
        one_of("code", code, CODES)
        d = whole("d", d, least=4, most=MAX_DIM)
        if d % 2:
            raise ValueError(f"d must be even, as dimensions come in pairs: got {d}")
        length = whole("length", length, least=8, most=MAX_LENGTH)
        position = whole("position", position, least=0, most=length - 1)
        pair = whole("pair", pair, least=0, most=d // 2 - 1)
        super().__init__(
            code=code,
            d=d,
            length=length,
            base=float(number("base", base, least=10, most=MAX_BASE)),
            position=position,
            offset=whole("offset", offset, least=-position, most=length - 1 - position),
            pair=pair,
            **kwargs,
        )

    def frequencies(self):
        """ω_i for each pair: (d/2,)."""
        if self.code == "equal":
            return np.full(self.d // 2, 2 * math.pi)
        return self.base ** (-2 * np.arange(self.d // 2) / self.d)

    def encoding(self):
        """The table that is drawn: (length, d)."""
        angles = np.arange(self.length)[:, None] * self.frequencies()
        return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(self.length, self.d)

    def similarity(self):
        """PE(position) · PE(t) for every t in the table: (length,)."""
        table = self.encoding()
        return table @ table[self.position]

    def shifted(self, offset=None):
        """The table turned by `offset`, pair by pair, knowing no position: (length, d)."""
        angle = (self.offset if offset is None else offset) * self.frequencies()
        sin, cos = self.encoding()[:, 0::2], self.encoding()[:, 1::2]
        c, s = np.cos(angle), np.sin(angle)
        turned = [sin * c + cos * s, cos * c - sin * s]
        return np.stack(turned, -1).reshape(self.length, self.d)

    def ticks(self):
        """The three properties, computed from the table.

        "distance": the least between two positions, "unique" when above 1e-6. "residual": the
        largest entry of PE(t + k) minus the rotation of PE(t), over all k and t in the table,
        "linear" when below 1e-9. "crossings_first", "crossings_last": sign changes down the sine
        of the first and of the last pair (entries below 1e-9 count as zero), "scales" when they
        fall.
        """
        table, n = self.encoding(), self.length
        gaps = np.linalg.norm(table[:, None] - table[None], axis=-1)
        distance = float(gaps[~np.eye(n, dtype=bool)].min())
        residual = max(
            float(np.abs(self.shifted(k)[: n - k] - table[k:]).max()) for k in range(1, n)
        )
        first, last = _crossings(table[:, 0]), _crossings(table[:, -2])
        return {
            "distance": distance,
            "unique": distance > 1e-6,
            "residual": residual,
            "linear": residual < 1e-9,
            "crossings_first": first,
            "crossings_last": last,
            "scales": first > last,
        }


def _crossings(column):
    """How often the sign changes from one entry to the next, noise around zero left out."""
    signs = np.sign(column[np.abs(column) > 1e-9])
    return int((signs[1:] != signs[:-1]).sum())
