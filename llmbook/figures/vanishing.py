"""Interactive: how a gradient shrinks or grows on its way back through time."""

import math

import numpy as np
import traitlets

from llmbook.checks import number, one_of, whole

from .interactive import Interactive, numbers

ACTIVATIONS = {
    "linear": (lambda a: a, lambda a: np.ones_like(a)),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2),
}
VANISHED, EXPLODED = 1e-3, 1e3
UNITS, LENGTH = 8, 100


class VanishingGradient(Interactive):
    """One factor per step, or the Jacobian of a small recurrent network per step.

    Scalar mode draws `factor ** k` for k = 0 … steps. Matrix mode runs h_t = φ(W h_{t-1} + x_t),
    8 units over 100 fixed inputs, and draws the spectral norm of the product of the last k
    Jacobians,

        ‖ J_T J_{T-1} … J_{T-k+1} ‖₂,   J_t = diag(φ'(a_t)) W,   T = 100.

    W = gain · (Q + nonnormality · N): Q is orthogonal, and N couples its invariant planes one way,
    so every eigenvalue of W has the size `gain` whatever `nonnormality`, while its largest
    singular value grows with it. The browser repeats the computation from the Q, N and x in the
    state; `curve` and `matrix_curve` are the same in Python.

    Raises ValueError for a setting outside its slider, an unknown mode or activation.
    """

    script = "vanishing.js"
    alt = traitlets.Unicode(
        "The size of a gradient against the number of steps it has travelled back, on a log axis. "
        "Sliders set the factor per step, or the recurrent matrix of a small network."
    ).tag(sync=True)
    mode = traitlets.Enum(("scalar", "matrix"), "scalar").tag(sync=True)
    factor = traitlets.Float(0.9).tag(sync=True)
    steps = traitlets.Int(50).tag(sync=True)
    gain = traitlets.Float(1.0).tag(sync=True)
    activation = traitlets.Enum(tuple(ACTIVATIONS), "tanh").tag(sync=True)
    nonnormality = traitlets.Float(0.0).tag(sync=True)
    network = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        mode="scalar",
        factor=0.9,
        steps=50,
        gain=1.0,
        activation="tanh",
        nonnormality=0.0,
        seed=0,
        **kwargs,
    ):
        one_of("mode", mode, ("scalar", "matrix"))
        one_of("activation", activation, ACTIVATIONS)
        super().__init__(
            mode=mode,
            factor=float(number("factor", factor, least=0.5, most=1.5)),
            steps=whole("steps", steps, least=1, most=LENGTH),
            gain=float(number("gain", gain, least=0.5, most=5.0)),
            activation=activation,
            nonnormality=float(number("nonnormality", nonnormality, least=0.0, most=2.0)),
            network=_network(seed),
            **kwargs,
        )

    @staticmethod
    def curve(factor, steps):
        """factor ** k for k = 0 … steps: shape (steps + 1,)."""
        return float(factor) ** np.arange(steps + 1)

    @staticmethod
    def horizon(values):
        """The first k with a value below 1e-3 ("vanished") or above 1e3 ("exploded"), or None."""
        for k, value in enumerate(values):
            if value < VANISHED:
                return k, "vanished"
            if value > EXPLODED:
                return k, "exploded"
        return None

    def weight(self, gain, nonnormality):
        """The recurrent matrix W: shape (8, 8)."""
        rotation, coupling = np.array(self.network["Q"]), np.array(self.network["N"])
        return gain * (rotation + nonnormality * coupling)

    def matrix_curve(self, gain, activation, nonnormality, steps):
        """The norm of the product of the last k Jacobians, k = 0 … steps: shape (steps + 1,)."""
        act, slope = ACTIVATIONS[activation]
        w = self.weight(gain, nonnormality)
        h, jacobians = np.zeros(UNITS), []
        for x in np.array(self.network["x"]):
            a = w @ h + x
            h = act(a)
            jacobians.append(slope(a)[:, None] * w)
        product, log_scale, norms = np.eye(UNITS), 0.0, [1.0]
        for jacobian in jacobians[::-1][:steps]:
            product = product @ jacobian
            size = np.abs(product).max()
            if size == 0:
                norms.append(0.0)
                continue
            product, log_scale = product / size, log_scale + math.log(size)
            norms.append(math.exp(log_scale) * np.linalg.norm(product, 2))
        return np.array(norms)

    def present(self):
        """The curve that the figure shows with its present settings."""
        if self.mode == "scalar":
            return self.curve(self.factor, self.steps)
        return self.matrix_curve(self.gain, self.activation, self.nonnormality, self.steps)


def _network(seed):
    """Q (orthogonal), N (one-way coupling between Q's planes) and inputs x."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((UNITS, UNITS)))
    rotation, coupling = np.zeros((UNITS, UNITS)), np.zeros((UNITS, UNITS))
    for plane, angle in enumerate(rng.uniform(0.2, 2.9, UNITS // 2)):
        i = 2 * plane
        c, s = math.cos(angle), math.sin(angle)
        rotation[i : i + 2, i : i + 2] = [[c, -s], [s, c]]
        coupling[i : i + 2, i + 2 :] = 0.7 * rng.standard_normal((2, UNITS - i - 2))
    return {
        "Q": (basis @ rotation @ basis.T).tolist(),
        "N": numbers(basis @ coupling @ basis.T, 12),
        "x": numbers(0.3 * rng.standard_normal((LENGTH, UNITS)), 3),
    }
