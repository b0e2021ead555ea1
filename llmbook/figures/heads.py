"""Interactive: what each head of a trained model looks at, one text at a time.

With a model the reader types a text of his own, switches a head off, and narrows what tokens see.
"""

import numpy as np
import torch
import traitlets

from llmbook.checks import one_of, whole

from .forward import WithModel
from .next_token import token_names

PATTERNS = ("previous token", "first token", "same token", "after an earlier copy")
DIFFUSE = "diffuse"
CLEAR = 0.4  # a pattern names a head when it holds at least this share of the head's attention
MOST_TOKENS = 24
WINDOWS = (0, 16, 8, 4, 2)  # 0: everything before


class HeadPatterns(WithModel):
    """The attention weights of every head on a few sentences, with a name for each pattern.

    `sentences`: a list of token lists, at most 24 tokens each. `weights`: for each sentence an
    array (layers, heads, tokens, tokens), row i the weights with which token i looks at the
    tokens; each row sums to 1. `sentence`, `layer`, `head` and `query` (None: the last token)
    choose what is shown first.

    A head's score for a pattern is the mean weight that its queries put there: on the token before
    ("previous token"), on the first one ("first token"), on themselves ("same token"), on the
    tokens that followed earlier copies of themselves ("after an earlier copy", over the queries
    that have one). The highest score names the head if it is at least 0.4; otherwise the head is
    "diffuse". The first query is left out, as all patterns coincide there. Entropy: the mean of
    −Σ w ln w over queries, in nats; of uniform weights over n tokens, ln n.

    model, a `GPT`, tokenizer and weights_name: what reads the reader's own text, `prompt`, in the
    page. off: without what the chosen head adds. window: each token sees itself and the tokens
    before it, so many in all (0: no limit), and with `first` always the first one. What the text
    then costs, the mean of −log₂ p over its tokens, is told beside what it cost before.
    `HeadPatterns.of` makes sentences, weights and ids itself.

    Raises ValueError for shapes that do not fit, negative weights or rows that do not sum to 1.
    """

    script = "heads.js"
    alt = traitlets.Unicode(
        "Heat maps of the attention weights of every head of a trained model on a chosen "
        "sentence, with the pattern that each head follows, how strongly, and how spread out its "
        "attention is."
    ).tag(sync=True)
    sentences = traitlets.List().tag(sync=True)
    weights_stored = traitlets.List().tag(sync=True)
    ids = traitlets.List().tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    off = traitlets.Bool(False).tag(sync=True)
    window = traitlets.Int(0).tag(sync=True)
    first = traitlets.Bool(False).tag(sync=True)
    sentence = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)

    def __init__(
        self, sentences, weights, sentence=0, layer=0, head=0, query=None, model=None, **kwargs
    ):
        sentences = [[str(token) for token in tokens] for tokens in _lists(sentences)]
        if not sentences or len(sentences) != len(weights):
            raise ValueError(
                "weights must hold one array for each sentence: got "
                f"{len(weights)} for {len(sentences)} sentences"
            )
        arrays = [_checked(*pair) for pair in zip(sentences, weights, strict=True)]
        n_layers, n_heads = arrays[0].shape[:2]
        if any(array.shape[:2] != (n_layers, n_heads) for array in arrays):
            raise ValueError(f"every sentence must come with {n_layers} layers of {n_heads} heads")
        sentence = whole("sentence", sentence, least=0, most=len(sentences) - 1)
        layer = whole("layer", layer, least=0, most=n_layers - 1)
        head = whole("head", head, least=0, most=n_heads - 1)
        one_of("window", kwargs.get("window", 0), WINDOWS)
        last = len(sentences[sentence]) - 1
        super().__init__(
            model,
            sentences=sentences,
            weights_stored=[np.round(array, 4).tolist() for array in arrays],
            sentence=sentence,
            layer=layer,
            head=head,
            query=whole("query", last if query is None else query, least=0, most=last),
            **kwargs,
        )

    @classmethod
    def of(cls, model, tokenizer, texts, weights_name, **options):
        """The figure of a `GPT` and some texts, each behind the token that begins one."""
        names = token_names(tokenizer)
        ids = [[model.config.eos_id, *tokenizer.encode(text, ())] for text in texts]
        with torch.no_grad():
            weights = [read_heads(model, torch.tensor([row]))[1][0] for row in ids]
        return cls(
            [[_visible(names[i]) for i in row] for row in ids],
            weights,
            model=model,
            tokenizer=tokenizer,
            weights_name=weights_name,
            ids=ids,
            **options,
        )

    def reading(self, sentence=None, layer=None, head=None):
        """`describe` for one head on one sentence; what is left out is as the figure shows it."""
        sentence = self.sentence if sentence is None else sentence
        layer = self.layer if layer is None else layer
        head = self.head if head is None else head
        return describe(self.weights_stored[sentence][layer][head], self.sentences[sentence])


def read_heads(model, ids, keep=None, seen=None):
    """A `GPT` with heads left out, or with less to see: logits, and every head's weights.

    ids (batch, tokens); keep (layers, heads): what each head's result is multiplied by; seen bool
    (tokens, tokens): may token i see token j? Joined with the causal mask; all when None. →
    (batch, tokens, vocab_size), (batch, layers, heads, tokens, tokens)
    """
    x, maps = model.tokens(ids) + model.positions.weight[: ids.shape[1]], []
    for i, block in enumerate(model.blocks):
        z, layer = block.norm1(x), block.attention
        heads = layer.heads(z, mask=seen, causal=True)
        maps.append(layer.weights(z, mask=seen, causal=True))
        if keep is not None:
            heads = heads * keep[i, :, None, None]
        x = x + layer.merge(heads)
        x = x + block.ffn(block.norm2(x))
    return model.head(model.norm(x)), torch.stack(maps, 1)


def _visible(token):
    """A token as the page shows it: blanks and line ends have a sign."""
    if token.startswith(" ") and not set(token[1:]) & {" ", "\n"} and token[1:]:
        return "␣" + token[1:]
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def pattern_scores(weights, tokens=None):
    """How much of a head's attention goes where each pattern says: {pattern: mean weight}.

    weights: (tokens, tokens), rows sum to 1. Without `tokens` there are no copies to look for.
    See `HeadPatterns` for the definitions.
    """
    w = _square(weights)
    n = len(w)
    if tokens is not None and len(tokens) != n:
        raise ValueError(
            f"tokens must be as many as the rows of weights: got {len(tokens)} for {n}"
        )
    rows = np.arange(1, n)
    scores = {name: 0.0 for name in PATTERNS}
    if n > 1:
        scores["previous token"] = w[rows, rows - 1].mean()
        scores["first token"] = w[rows, 0].mean()
        scores["same token"] = w[rows, rows].mean()
    found = []
    for i in range(n if tokens is not None else 0):
        behind = [j + 1 for j in range(i - 1) if tokens[j] == tokens[i]]
        if behind:
            found.append(w[i, behind].sum())
    if found:
        scores["after an earlier copy"] = np.mean(found)
    return {name: float(score) for name, score in scores.items()}


def entropy(weights):
    """Mean entropy of the rows in nats: 0 for one token each, ln n for uniform weights over n."""
    w = _square(weights)
    return float(-(w * np.log(np.where(w > 0, w, 1.0))).sum(1).mean())


def describe(weights, tokens=None):
    """A head's pattern, its score and its entropy: {"label": …, "score": …, "entropy": …}."""
    scores = pattern_scores(weights, tokens)
    best = max(scores, key=scores.get)
    label = best if scores[best] >= CLEAR else DIFFUSE
    return {"label": label, "score": scores[best], "entropy": entropy(weights), "scores": scores}


def _lists(sentences):
    for tokens in sentences:
        if isinstance(tokens, str):
            raise TypeError("sentences must be lists of tokens: got a string (use text.split())")
    return list(sentences)


def _array(weights):
    """float64, from a list, an array or a tensor on any device."""
    return np.asarray(weights.detach().cpu() if hasattr(weights, "detach") else weights, float)


def _square(weights):
    w = _array(weights)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or not len(w):
        raise ValueError(f"weights must be (tokens, tokens): got {w.shape}")
    return w


def _checked(tokens, weights):
    """Weights (layers, heads, tokens, tokens) as float64; ValueError says what is wrong."""
    w = _array(weights)
    n = len(tokens)
    if not 2 <= n <= MOST_TOKENS:
        raise ValueError(f"a sentence must have 2 to {MOST_TOKENS} tokens: got {n}")
    if w.ndim != 4 or w.shape[2:] != (n, n) or 0 in w.shape:
        raise ValueError(
            f"weights must be (layers, heads, {n}, {n}) for {n} tokens: got {w.shape}"
        )
    if not np.isfinite(w).all() or w.min() < 0 or np.abs(w.sum(-1) - 1).max() > 1e-3:
        raise ValueError("weights must be positive and each row must sum to 1")
    return w
