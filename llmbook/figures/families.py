"""Interactive: which tokens a token may read in an encoder, a decoder and an encoder–decoder."""

import numpy as np
import traitlets

from llmbook.checks import one_of, whole

from .interactive import Interactive

FAMILIES = ("encoder", "decoder", "encoder–decoder")
MOST_TOKENS, MOST_WORDS = 10, 7


class FamilyMasks(Interactive):
    """The residual streams of the three families side by side, and their masks below.

    tokens: the text of the encoder and the decoder; source and target: of the encoder–decoder. At
    most 10 tokens each way (source and target together). layers: 1 to 4. token: the column chosen
    in the first two; place: in the third, source first; layer: which one reads. text: what the
    reader may type over, from which `inputs_of` makes the three; `of_text` starts with that.

    A token of layer ℓ reads outputs of layer ℓ − 1 (0: the embeddings), those that `family_mask`
    allows; a target also reads the source's last layer. Raises ValueError or TypeError for what
    does not fit.
    """

    script = "families.js"
    alt = traitlets.Unicode(
        "Three panels, for encoder, decoder and encoder–decoder: each token's residual stream "
        "through the layers, lines from the tokens that a chosen one reads, and the mask. The "
        "encoder reads all, the decoder what stands before, a target the source and its past."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    tokens = traitlets.List().tag(sync=True)
    source = traitlets.List().tag(sync=True)
    target = traitlets.List().tag(sync=True)
    layers = traitlets.Int(3).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(1).tag(sync=True)

    def __init__(
        self, tokens, source, target, layers=3, token=None, place=None, layer=1, **kwargs
    ):
        lists = {"tokens": tokens, "source": source, "target": target}
        for name, words in lists.items():
            if isinstance(words, str):
                raise TypeError(f"{name} must be a list of tokens: got a str (use text.split())")
            lists[name] = [str(word) for word in words]
            if not lists[name]:
                raise ValueError(f"{name} must have at least one token")
        n, both = len(lists["tokens"]), len(lists["source"]) + len(lists["target"])
        if max(n, both) > MOST_TOKENS:
            raise ValueError(f"at most {MOST_TOKENS} tokens can be shown: got {max(n, both)}")
        layers = whole("layers", layers, least=1, most=4)
        layer = whole("layer", layer, least=1, most=layers)
        token = n // 2 if token is None else token
        place = len(lists["source"]) + len(lists["target"]) // 2 if place is None else place
        token = whole("token", token, least=0, most=n - 1)
        place = whole("place", place, least=0, most=both - 1)
        super().__init__(**lists, layers=layers, token=token, place=place, layer=layer, **kwargs)

    @classmethod
    def of_text(cls, text, **state):
        """The figure of a sentence of at most seven words; the last target is chosen."""
        found = inputs_of(text)
        place = len(found["source"]) + len(found["target"]) - 1
        return cls(**found, text=text, place=place, **state)

    def mask(self, family):
        """The mask that a panel shows: bool (columns, columns), True = may read."""
        if family == FAMILIES[2]:
            return family_mask(family, len(self.source), len(self.target))
        return family_mask(family, len(self.tokens))


def inputs_of(text):
    """{"tokens", "source", "target"} of a text's first seven words; two in the middle are cut out.

    Raises ValueError for a text without words.
    """
    words = text.split()[:MOST_WORDS]
    if not words:
        raise ValueError("text must hold at least one word: got none")
    start = (len(words) - 1) // 2
    return {
        "tokens": words,
        "source": [*words[:start], "⟨1⟩", *words[start + 2 :]],
        "target": ["⟨s⟩", "⟨1⟩", *words[start : start + 2]],
    }


def family_mask(family, n, n_target=0):
    """Who may read whom: bool (columns, columns), row i what token i reads.

    n: tokens, or source tokens of the encoder–decoder, whose columns are source and then target.
    Source tokens read the source; targets read the source (cross-attention) and their own past.
    """
    one_of("family", family, FAMILIES)
    if family == FAMILIES[0]:
        return np.ones((n, n), bool)
    if family == FAMILIES[1]:
        return np.tri(n, dtype=bool)
    mask = np.zeros((n + n_target, n + n_target), bool)
    mask[:, :n] = True
    mask[n:, n:] = np.tri(n_target, dtype=bool)
    return mask


def cone(mask, i, steps):
    """Which tokens a token draws on, one, two, … layers below it: `steps` lists of columns."""
    out, reached = [], {i}
    for _ in range(steps):
        reached = {int(j) for k in reached for j in np.flatnonzero(mask[k])}
        out.append(sorted(reached))
    return out
