"""Interactive: a translator writes the reader's date in ISO form, and shows where it looks."""

import traitlets

from llmbook import checks

from .forward import WithWeights

LONGEST, WRITES = 36, 10
_NEEDS = ("source.weight", "encoder.weight_ih_l0_reverse", "score.v.weight", "cell.weight_ih")


class DateReader(WithWeights):
    """A date that the reader types, what a translator with attention writes, and its weights.

        e_tj = v · tanh(W s_(t-1) + U h_j),   α_t = softmax(e_t),   c_t = Σ_j α_tj h_j

    weights: of `llmbook.experiments.attention.Translator` with its additive score, by PyTorch's
    names; alphabet, written: the characters that it reads and writes, id by id. step: which of
    the ten characters written has its weights shown. hide: a piece of the text, attention may not
    read the letters of its first occurrence. best: False forbids at every step the letter whose
    score is highest. Raises ValueError for weights that lack something, for a text of fewer than
    2 or more than 36 characters or with one that the alphabet lacks, for a step outside 0 … 9,
    and for a piece that the text lacks or that is all of it.
    """

    script = "dates.js"
    alt = traitlets.Unicode(
        "A date that the reader can change, translated letter by letter into ISO form by a small "
        "network. The letters are shaded by the attention that they get while one character is "
        "written, and a heat map shows it for all ten. Letters can be hidden from attention."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    alphabet = traitlets.Unicode("").tag(sync=True)
    written = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    hide = traitlets.Unicode("").tag(sync=True)
    best = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        weights,
        alphabet,
        written,
        text="the 3rd of March, 1998",
        *,
        step=5,
        hide="",
        **state,
    ):
        if missing := sorted(set(_NEEDS) - set(weights)):
            raise ValueError(
                f"weights must be a translator's with attention: {', '.join(missing)} missing"
            )
        checks.text("text", text, least=2, most=LONGEST)
        if strange := sorted(set(text) - set(alphabet)):
            raise ValueError(f"text must be of the translator's characters: got {strange}")
        if hide not in text or hide == text:
            raise ValueError(f"hide must be a piece of the text, not all of it: got {hide!r}")
        step = checks.whole("step", step, least=0, most=WRITES - 1)
        names = {"alphabet": alphabet, "written": written, "text": text, "hide": hide}
        super().__init__("dates", weights, step=step, **names, **state)
