"""The chapter on RNN and LSTM: break the code under an exact claim, and the claim must not hold."""

import contextlib
import io
import json
from pathlib import Path

import matplotlib
import pytest

from llmbook.book.claims import ClaimError
from llmbook.book.root import find_root

matplotlib.use("Agg")
NOTEBOOK = find_root(Path(__file__).parent) / "chapters" / "rnn_lstm.ipynb"
CELLS = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


def cell_with(text):
    """The one code cell that contains `text`."""
    found = [cell for cell in CELLS if text in cell]
    assert len(found) == 1, f"{len(found)} cells contain {text!r}"
    return found[0]


BEGIN = ["import matplotlib.pyplot as plt", "class Cell:"]
BPTT = [
    *BEGIN,
    'claim(\n    "rnn-cell-formula"',
    "small = Cell(1, 2",
    "def orthogonal(",
    "def bptt_by_lag(",
    "def cosine(",
]
LAGS = [*BPTT, "def size("]
LSTM = ["import matplotlib.pyplot as plt", "def lstm_step("]

# claim: the cells it stands on (the last one makes the claim), what is broken, and by what
BROKEN = {
    "rnn-cell-formula": (
        [*BEGIN, '"rnn-cell-formula"'],
        "self.W_hh @ h + self.W_xh",
        "self.W_hh.T @ h + self.W_xh",
    ),
    "rnn-bptt, product with W": (
        [*BPTT, '"rnn-bptt"'],
        "error = cell.W_hh.T @ delta",
        "error = cell.W_hh @ delta",
    ),
    "rnn-bptt, slope": (
        [*BPTT, '"rnn-bptt"'],
        "(1 - states[s + 1] ** 2) * error",
        "(1 - states[s] ** 2) * error",
    ),
    "rnn-jacobian-product": (
        [*BPTT, '"rnn-jacobian-product"'],
        "((1 - h**2)[:, None] * cell.W_hh) @ product",
        "(cell.W_hh * (1 - h**2)) @ product",
    ),
    "rnn-gradient-clipping, always scaled": (
        [*LAGS, '"rnn-gradient-clipping"'],
        "min(1.0, c / np.linalg.norm(g))",
        "(c / np.linalg.norm(g))",
    ),
    "rnn-gradient-clipping, by value": (
        [*LAGS, '"rnn-gradient-clipping"'],
        "return g * min(1.0, c / np.linalg.norm(g))",
        "return clip_value(g, c / 16)",
    ),
    "lstm-cell-equations": (
        [*LSTM, '"lstm-cell-equations"'],
        "sigmoid(f) * c + sigmoid(i)",
        "sigmoid(i) * c + sigmoid(f)",
    ),
    "lstm-1997-had-forget-gate": (
        [*LSTM, "def stream(", "history = [", '"lstm-1997-had-forget-gate"'],
        "c = forget * c",
        "c = 0.9 * c",
    ),
    "lstm-gru-equations": (
        [*LSTM, '"lstm-cell-equations"', '"lstm-gru-equations"'],
        "z * h + (1 - z) * candidate",
        "(1 - z) * h + z * candidate",
    ),
    "rnn-cannot-parallelise": (
        ["import matplotlib.pyplot as plt", "def longest_chain(", '"rnn-cannot-parallelise"'],
        "a[offset:] * b[:-offset] + b[offset:]",
        "b[:-offset] + b[offset:]",
    ),
    "lstm-still-sequential": (
        [
            "import matplotlib.pyplot as plt",
            "def longest_chain(",
            '"rnn-cannot-parallelise"',
            '"lstm-still-sequential"',
        ],
        'layer = LSTM(8, 8, backend="reference").double()',
        "layer = lambda x: ((W_q @ x.mT).mT,)",
    ),
}


def execute(names, old=None, new=None):
    """Run cells at `smoke` in a fresh namespace, with one piece of code changed."""
    cells = [cell_with(name) for name in names]
    if old is not None:
        assert sum(cell.count(old) for cell in cells) == 1, f"{old!r} must occur once"
        cells = [cell.replace(old, new) for cell in cells]
    space = {"profile": "smoke", "seed": 0, "__name__": "chapter"}
    if any("linear_scan" in cell for cell in cells):
        exec("from llmbook.recurrent import LSTM", space)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in cells:
            exec(compile(cell, "chapter", "exec"), space)
    return printed.getvalue()


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_holds_on_the_code_as_it_is(name):
    names, _, _ = BROKEN[name]
    assert f"claim {name.split(',')[0]} (" in execute(names)


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_fails_when_the_code_under_it_is_broken(name):
    names, old, new = BROKEN[name]
    with pytest.raises((ClaimError, AssertionError)):
        execute(names, old, new)
