"""Interactive: an LSTM cell, stepped by hand through a sentence."""

import numpy as np
import traitlets

from llmbook.checks import number, whole

from .interactive import Interactive, numbers

GATES = ("f", "i", "o")
_NAMES = ("f", "i", "o", "g", "c", "h")


class LSTMGates(Interactive):
    """The gates of a few LSTM units at every token, and what the cell state would be with others.

        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t        h_t = o_t ⊙ tanh(c_t)

    `tokens` are the words or characters that the cell read; `gates` maps "f", "i", "o" and the
    candidate "g" to arrays (steps, units); "c0" may give the cell state before the first token
    (units,), else zero; "c" and "h" may be given and must then agree with the equations. A reader
    steps through the tokens, picks a unit, and may hold its gates at values of their choice from a
    step on: the cell is then replayed with these and with the model's own other numbers. (In the
    running model a changed h would also change the later gates; the replay leaves those alone, so
    that one cause is seen at a time.)

    Raises ValueError for missing gates, shapes that do not fit, gates outside [0, 1] or numbers
    that are not finite.
    """

    script = "gates.js"
    alt = traitlets.Unicode(
        "An LSTM cell stepped through a sentence: its forget, input and output gates, candidate, "
        "cell state and output at each token. Sliders hold a gate at another value."
    ).tag(sync=True)
    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    gates = traitlets.Dict().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    unit = traitlets.Int(0).tag(sync=True)
    held = traitlets.Dict().tag(sync=True)
    since = traitlets.Int(0).tag(sync=True)

    def __init__(self, tokens, gates, names=None, step=0, **kwargs):
        arrays = _checked(tokens, gates)
        n_steps, n_units = arrays["f"].shape
        names = [f"{u + 1}" for u in range(n_units)] if names is None else [str(n) for n in names]
        if len(names) != n_units:
            raise ValueError(f"names must name each of {n_units} units: got {len(names)}")
        step = whole("step", step, least=0, most=n_steps - 1)
        super().__init__(
            tokens=[str(token) for token in tokens],
            gates={name: numbers(array) for name, array in arrays.items()},
            names=names,
            step=step,
            **kwargs,
        )

    @classmethod
    def from_layer(cls, layer, inputs, tokens, units=None, **kwargs):
        """Run a one-layer, one-direction LSTM (torch's or ours) over inputs (steps, input_size).

        `units` picks the hidden units to show; by default the four whose cell state moves most.
        """
        state = layer.state_dict()
        if "weight_ih_l1" in state or "weight_ih_l0_reverse" in state:
            raise ValueError("from_layer needs an LSTM with one layer and one direction")
        if "weight_ih_l0" not in state:
            raise ValueError(f"from_layer needs an LSTM layer: got {type(layer).__name__}")
        w_x, w_h = _array(state["weight_ih_l0"]), _array(state["weight_hh_l0"])
        n_hidden, x = w_h.shape[1], _array(inputs)
        if w_h.shape[0] != 4 * n_hidden:
            raise ValueError(
                f"from_layer needs an LSTM's four gates: weight_hh_l0 has shape {w_h.shape}"
            )
        if x.ndim != 2 or x.shape != (len(tokens), w_x.shape[1]):
            raise ValueError(
                "inputs must be (steps, input_size), one step a token: got "
                f"{x.shape} for {len(tokens)} tokens and input_size={w_x.shape[1]}"
            )
        bias = sum((_array(state[k]) for k in ("bias_ih_l0", "bias_hh_l0") if k in state), 0.0)
        every = _run(x @ w_x.T + bias, w_h)
        if units is None:
            moves = np.abs(np.diff(every["c"], axis=0, prepend=0)).sum(0)
            units = sorted(np.argsort(-moves, kind="stable")[:4].tolist())
        for unit in units:
            whole("units", unit, least=0, most=n_hidden - 1)
        chosen = {name: array[:, list(units)] for name, array in every.items()}
        kwargs.setdefault("names", [str(unit) for unit in units])
        return cls(tokens, chosen, **kwargs)

    def replay(self, held=None, since=0, unit=None):
        """c and h with some gates held at given values from step `since` on.

        `held` maps "f", "i" or "o" to a value in [0, 1]; without `unit` every unit is replayed.
        Returns two arrays (steps, units), or (steps,) for one unit.
        """
        held = dict(held or {})
        for name, value in held.items():
            if name not in GATES:
                raise ValueError(f"held must name gates of {GATES}: got {name!r}")
            number(name, value, least=0, most=1)
        gate = {name: np.array(self.gates[name]) for name in ("f", "i", "o", "g")}
        for name, value in held.items():
            gate[name][since:] = value
        cell, cells = np.array(self.gates["c0"]), []
        for f, i, g in zip(gate["f"], gate["i"], gate["g"], strict=True):
            cell = f * cell + i * g
            cells.append(cell)
        cells = np.stack(cells)
        hidden = gate["o"] * np.tanh(cells)
        return (cells, hidden) if unit is None else (cells[:, unit], hidden[:, unit])


def _array(value):
    """A float64 array from a list, an array or a tensor on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=float)


def _run(pre, w_h):
    """All gates and states over (steps, 4·hidden) input parts; torch's order: i, f, g, o."""
    n_hidden = w_h.shape[1]
    h = c = np.zeros(n_hidden)
    rows = []
    for part in pre:
        i, f, g, o = np.split(part + w_h @ h, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        g = np.tanh(g)
        c = f * c + i * g
        h = o * np.tanh(c)
        rows.append((f, i, o, g, c, h))
    return dict(zip(_NAMES, map(np.stack, zip(*rows, strict=True)), strict=True))


def _checked(tokens, gates):
    """f, i, o, g as (steps, units) and c0 as (units,), or a ValueError that says what is wrong."""
    if isinstance(tokens, str):
        raise TypeError("tokens must be a list of strings: got one string (use list(text))")
    if missing := [name for name in ("f", "i", "o", "g") if name not in gates]:
        raise ValueError(f"gates must have f, i, o and g: {', '.join(missing)} missing")
    if unknown := set(gates) - {*_NAMES, "c0"}:
        raise ValueError(f"gates has unknown entries: {sorted(unknown)}")
    arrays = {name: _array(gates[name]) for name in gates}
    shape = arrays["f"].shape
    if len(shape) != 2 or shape[0] != len(tokens) or shape[0] == 0 or shape[1] == 0:
        raise ValueError(
            f"gates must be (steps, units), one step a token: got {shape} for {len(tokens)} tokens"
        )
    arrays.setdefault("c0", np.zeros(shape[1]))
    for name, array in arrays.items():
        expected = shape[1:] if name == "c0" else shape
        if array.shape != expected:
            raise ValueError(f"gates[{name!r}] must have shape {expected}: got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"gates[{name!r}] has numbers that are not finite")
    for name in GATES:
        if arrays[name].min() < 0 or arrays[name].max() > 1:
            raise ValueError(f"gates[{name!r}] must lie in [0, 1]: a sigmoid's output")
    cell = arrays["c0"]
    for t in range(shape[0]):
        cell = arrays["f"][t] * cell + arrays["i"][t] * arrays["g"][t]
        hidden = arrays["o"][t] * np.tanh(cell)
        for name, value in (("c", cell), ("h", hidden)):
            if name in arrays and not np.allclose(arrays[name][t], value, atol=1e-4):
                raise ValueError(
                    f"gates[{name!r}] disagrees with the LSTM's equations at step {t}"
                )
    return {name: arrays[name] for name in ("f", "i", "o", "g", "c0")}
