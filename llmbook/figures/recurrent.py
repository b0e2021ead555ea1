"""Interactive: a small recurrent network in the page, reading the reader's own text.

`CellReader` shows its states and guesses, `GradientReach` the way back of a gradient, `HeldGate`
an LSTM's memory with the forget gate held. All compute in the browser, from weights that travel
with them (`llmbook.experiments.recurrent.shipped`).
"""

import traitlets

from llmbook import checks

from .forward import WithWeights

LONGEST = 120
_LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _layer(weights):
    """The weights under the names that the scripts use: one layer and a readout."""
    names = {f"layer.{name}_l0": name for name in _LAYER}
    names |= {"out.weight": "out", "out.bias": "out_bias"}
    if missing := sorted(set(names) - set(weights)):
        raise ValueError(
            f"weights must have one layer and a readout: {', '.join(missing)} missing"
        )
    return {name: weights[key] for key, name in names.items()}


def _checked(text, alphabet):
    """The text, when the network can read it."""
    checks.text("text", text, least=2, most=LONGEST)
    if strange := sorted(set(text) - set(alphabet)):
        raise ValueError(f"text must be of the network's characters: got {strange}")
    return text


class CellReader(WithWeights):
    """A text, one unit's state after each character, and the network's guesses of the next.

        h_t = tanh(W_ih x_t + W_hh h_(t-1) + b),   p(next) = softmax(W_out h_t + b_out)

    weights: of a one-layer tanh RNN over one-hot characters, by PyTorch's names; alphabet: its
    characters, id by id. Raises ValueError for weights that lack something, for a text of fewer
    than 2 or more than 120 characters or with one that the alphabet lacks, and for a unit or a
    place that there is not.
    """

    script = "reading.js"
    alt = traitlets.Unicode(
        "A text that the reader can change, read by a small recurrent network: each character is "
        "shaded by the state of one unit after it, and bars show what the network expects next. "
        "Sliders choose the unit and the place in the text."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    alphabet = traitlets.Unicode("").tag(sync=True)
    unit = traitlets.Int(0).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)

    def __init__(self, weights, alphabet, text="return the length of the list", **state):
        held = _layer(weights)
        width = held["weight_hh"].shape[1]
        state["unit"] = checks.whole("unit", state.get("unit", 0), least=0, most=width - 1)
        state["place"] = checks.whole("place", state.get("place", 0), least=0, most=len(text) - 1)
        text = _checked(text, alphabet)
        super().__init__("characters", held, text=text, alphabet=alphabet, **state)


class GradientReach(WithWeights):
    """How much of the gradient at a text's last character arrives at each state before it.

        g_(t-1) = gain · W_hhᵀ ((1 − h_t²) ∘ g_t),   drawn: |g_t| / |g_T|

    The loss is −log p(last character) after all before it. gain multiplies W_hh, on the way there
    and on the way back. weights, alphabet and text as for `CellReader`; Raises ValueError for
    them, and for a gain outside 0.2 … 3.
    """

    script = "reach.js"
    alt = traitlets.Unicode(
        "A text that the reader can change, and for each of its characters how much of the "
        "gradient of the last one's loss arrives there, on a log axis. A slider multiplies the "
        "recurrent weights of the network that reads it."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    alphabet = traitlets.Unicode("").tag(sync=True)
    gain = traitlets.Float(1.0).tag(sync=True)

    def __init__(
        self, weights, alphabet, text="The result is a list of the names", gain=1.0, **state
    ):
        super().__init__(
            "characters",
            _layer(weights),
            text=_checked(text, alphabet),
            alphabet=alphabet,
            gain=float(checks.number("gain", gain, least=0.2, most=3)),
            **state,
        )


class HeldGate(WithWeights):
    """An LSTM trained to name the first symbol at the end; its forget gate may be held.

    The first symbol is one of A, B, C, D; each character of `text` stands for one of four noise
    symbols (its code modulo 4). forget: what f is held at from the second symbol on; −1 leaves
    the gates to the network. cut keeps h from the gates. weights: of a one-layer LSTM over eight
    symbols with a readout of four. Raises ValueError for weights that lack something, a first
    symbol that there is not, a text of more than 120 characters and a gate outside [0, 1].
    """

    script = "held.js"
    alt = traitlets.Unicode(
        "An LSTM reads a first symbol and then noise that the reader types. Lines show how "
        "probable it holds each of four answers after every symbol, a heat map its cell states. "
        "A slider holds the forget gate, another control cuts the way through h."
    ).tag(sync=True)
    first = traitlets.Unicode("A").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    forget = traitlets.Float(-1.0).tag(sync=True)
    cut = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self, weights, text="any noise that you like to type here", first="A", forget=-1.0, **state
    ):
        checks.one_of("first", first, tuple("ABCD"))
        checks.text("text", text, most=LONGEST)
        if forget != -1:
            checks.number("forget", forget, least=0, most=1)
        super().__init__(
            "recall", _layer(weights), text=text, first=first, forget=float(forget), **state
        )
