"""Interactive: a trained encoder–decoder in the page translates the reader's own sentence."""

import traitlets

from llmbook.checks import one_of, whole

from .forward import WithWeights

LONGEST = 20  # words
WITHOUT = ("nothing", "positions", "cross-attention", "mask")


class Translating(WithWeights):
    """A sentence in English, its translation token by token, and where cross-attention looked.

        p(next) = softmax(decoder(√d E[written] + PE, encoder(√d E[words] + PE)) Eᵀ)

    weights: those of a `llmbook.models.transformer.Transformer` with norms before its sub-layers
    and one table for all, by its names; vocabulary: <pad>, <s>, </s>, then the words, and last the
    tokens of the other language, of which endings begin with "-". known: the words that a reader
    may use. layer, head and token choose what is shown; token −1 is the last one written.
    without: what is taken out while it reads and writes. Raises ValueError for weights that lack
    something, a sentence that is empty, longer than 20 words or holds a word that is not known,
    and for a layer, a head or a part that there is not.
    """

    script = "translating.js"
    alt = traitlets.Unicode(
        "A sentence that the reader can change is translated into an invented language by a small "
        "Transformer. A heat map shows, for each token that is written, at which words one head "
        "of its cross-attention looked. Controls choose the head and take a part out."
    ).tag(sync=True)
    vocabulary = traitlets.List().tag(sync=True)
    known = traitlets.List().tag(sync=True)
    heads = traitlets.Int(4).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    layer = traitlets.Int(1).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(-1).tag(sync=True)
    without = traitlets.Unicode("nothing").tag(sync=True)

    def __init__(self, weights, vocabulary, known, text, *, heads=4, without="nothing", **state):
        layers = sum(name.endswith("cross.norm.weight") for name in weights)
        needed = {"tokens.weight", "encoder_norm.weight", "decoder_norm.weight"}
        if missing := sorted(needed - set(weights)):
            raise ValueError(
                f"weights must be a pre-norm Transformer's: {', '.join(missing)} missing"
            )
        if not layers or len(vocabulary) != weights["tokens.weight"].shape[0]:
            raise ValueError(
                f"vocabulary must have the table's {weights['tokens.weight'].shape[0]} tokens: "
                f"got {len(vocabulary)}"
            )
        one_of("without", without, WITHOUT)
        words = text.split()
        if not 1 <= len(words) <= LONGEST:
            raise ValueError(f"text must have 1 to {LONGEST} words: got {len(words)}")
        if strange := [word for word in words if word not in known]:
            raise ValueError(f"text must be of the known words: got {strange}")
        whole("layer", state.get("layer", 1), least=0, most=layers - 1)
        whole("head", state.get("head", 0), least=0, most=heads - 1)
        super().__init__(
            "translator",
            {name: w for name, w in weights.items() if name != "head.weight"},
            vocabulary=list(vocabulary),
            known=list(known),
            text=text,
            heads=heads,
            without=without,
            **state,
        )
