"""Interactive: what a language model expects at each place of a text, and drawing from it.

With a model the reader types a text, and the model reads it and writes on in the page.
"""

import math

import numpy as np
import torch
import traitlets

from llmbook.checks import number, one_of, whole

from .forward import WithModel

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STEP = 0.005  # nats: the grid on which log-probabilities are kept
MOST_PLACES = 64
WARMEST, COLDEST = 2.0, 0.1
INSIDE = ("", "attention", "layers")


class NextToken(WithModel):
    """The distribution over next tokens at every place of some texts, with the sampling knobs.

    `texts`: lists of tokens, as strings to show. `logits`: for each text an array (tokens,
    vocab_size); row i is what the model says after tokens 0 … i, so that the last row looks
    beyond the end. `ids`: for each text the tokens' ids, which the readings compare with.
    `vocabulary`: all tokens as strings. `text`, `place` (None: the last), `temperature` (0.1 …
    2), `top_k` (0: all tokens), `top_p` and `min_p` choose what is shown first.

        p = softmax(logits / temperature), cut to the top k, then to the smallest set of likeliest
        tokens with total probability of at least top_p, then to those at least min_p times as
        likely as the likeliest, and scaled to sum to 1

    model, a `GPT`, tokenizer and weights_name: what reads the reader's own text in the page and
    writes on; `inside` shows its "attention" or "layers" ("" for neither). Without a model there
    are the stored texts alone. `NextToken.of` makes texts, ids and logits itself.

    Surprise is −log₂ of the probability that the model itself (temperature 1, nothing cut) gave to
    the token that came; entropy is of the distribution as cut, both in bits. Log-probabilities are
    kept on a grid of 0.005 nats, two letters each, from 0 down to −20.475.

    Raises ValueError for shapes that do not fit, more than 64 places in all, or settings out of
    range.
    """

    script = "next_token.js"
    alt = traitlets.Unicode(
        "A text, each token shaded by how much it surprised a language model, and bars for the "
        "tokens that the model expected at a chosen place, with sliders for temperature, top-k "
        "and top-p and a button that draws a token."
    ).tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    inside = traitlets.Unicode("").tag(sync=True)
    texts = traitlets.List().tag(sync=True)
    ids = traitlets.List().tag(sync=True)
    vocabulary = traitlets.List().tag(sync=True)
    packed = traitlets.List().tag(sync=True)
    text = traitlets.Int(0).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)
    top_k = traitlets.Int(0).tag(sync=True)
    top_p = traitlets.Float(1.0).tag(sync=True)
    min_p = traitlets.Float(0.0).tag(sync=True)

    def __init__(self, texts, ids, logits, vocabulary, text=0, place=None, model=None, **kwargs):
        vocabulary = [str(token) for token in vocabulary]
        if not texts or not len(texts) == len(ids) == len(logits):
            raise ValueError(
                "texts, ids and logits must have one entry for each text: got "
                f"{len(texts)}, {len(ids)} and {len(logits)}"
            )
        texts = [[str(token) for token in tokens] for tokens in texts]
        ids = [[int(i) for i in row] for row in ids]
        packed = [_packed(*one, len(vocabulary)) for one in zip(texts, ids, logits, strict=True)]
        places = sum(map(len, texts))
        if places > MOST_PLACES:
            raise ValueError(f"texts may have {MOST_PLACES} tokens in all: got {places}")
        text = whole("text", text, least=0, most=len(texts) - 1)
        place = len(texts[text]) - 1 if place is None else place
        place = whole("place", place, least=0, most=len(texts[text]) - 1)
        number("temperature", kwargs.get("temperature", 1.0), least=COLDEST, most=WARMEST)
        whole("top_k", kwargs.get("top_k", 0), least=0, most=len(vocabulary))
        number("top_p", kwargs.get("top_p", 1.0), least=0.05, most=1.0)
        number("min_p", kwargs.get("min_p", 0.0), least=0.0, most=0.9)
        one_of("inside", kwargs.get("inside", ""), INSIDE)
        super().__init__(
            model,
            texts=texts,
            ids=ids,
            vocabulary=vocabulary,
            packed=packed,
            text=text,
            place=place,
            **kwargs,
        )

    @classmethod
    def of(cls, model, tokenizer, texts, weights_name, **options):
        """The figure of a `GPT` and some strings, each read behind the token that begins a text.

        Shown are the tokens as the page names them: what is no whole character by its bytes.
        """
        vocabulary = token_names(tokenizer)
        ids = [[model.config.eos_id, *tokenizer.encode(text, ())] for text in texts]
        with torch.no_grad():
            logits = [model(torch.tensor([row]))[0] for row in ids]
        shown = [[vocabulary[i] for i in row] for row in ids]
        return cls(
            shown,
            ids,
            logits,
            vocabulary,
            model=model,
            tokenizer=tokenizer,
            weights_name=weights_name,
            **options,
        )

    def log_probabilities(self, text=None, place=None):
        """The model's own log-probabilities, as the figure holds them: (vocab_size,), in nats."""
        text, place = self._where(text, place)
        log_p = unpack(self.packed[text][place])
        return log_p - np.log(np.exp(log_p).sum())

    def distribution(self, text=None, place=None):
        """What is drawn from at the present settings: (vocab_size,), sums to 1."""
        log_p = self.log_probabilities(text, place)
        return cut(log_p, self.temperature, self.top_k, self.top_p, self.min_p)

    def reading(self, text=None, place=None):
        """entropy (bits), kept (tokens left), surprise (bits; None after the last), best (id)."""
        text, place = self._where(text, place)
        p = self.distribution(text, place)
        kept = p[p > 0]
        came = self.ids[text][place + 1] if place + 1 < len(self.ids[text]) else None
        log_p = self.log_probabilities(text, place)
        return {
            "entropy": float(-(kept * np.log2(kept)).sum()),
            "kept": len(kept),
            "surprise": None if came is None else float(-log_p[came] / math.log(2)),
            "best": int(p.argmax()),
        }

    def _where(self, text, place):
        same = text is None or text == self.text
        text = self.text if text is None else text
        if place is None:
            place = self.place if same else len(self.texts[text]) - 1
        return text, place


def cut(log_p, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """softmax(log_p / temperature), cut by top-k, top-p and min-p: (vocab_size,) → the same.

    Of equally likely tokens the lower id comes first.
    """
    log_p = np.asarray(log_p, dtype=float) / temperature
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    ordered = p[order]
    if top_k:
        ordered[top_k:] = 0
        ordered /= ordered.sum()
    if top_p < 1:
        ordered[np.cumsum(ordered) - ordered >= top_p] = 0
        ordered /= ordered.sum()
    ordered[ordered < min_p * ordered[0]] = 0
    out = np.zeros_like(p)
    out[order] = ordered / ordered.sum()
    return out


def token_names(tokenizer):
    """Every token as it is shown alone: ⊔ for a special one, ⟨E2⟩ for a byte of a character."""
    names = ["⊔"] * len(tokenizer)
    for token, i in tokenizer.vocab.items():
        try:
            names[i] = token.decode()
        except UnicodeDecodeError:
            names[i] = "".join(f"⟨{byte:02X}⟩" for byte in token)
    return names


def unpack(text):
    """Log-probabilities from two letters each, in nats."""
    digits = np.array([ALPHABET.index(letter) for letter in text]).reshape(-1, 2)
    return -STEP * (64 * digits[:, 0] + digits[:, 1])


def _packed(tokens, ids, logits, vocab_size):
    """Log-probabilities of each place, two letters a token, on the grid."""
    array = np.asarray(logits.detach().cpu() if hasattr(logits, "detach") else logits, dtype=float)
    if array.shape != (len(tokens), vocab_size):
        raise ValueError(
            f"logits must be (tokens, vocab_size) = {(len(tokens), vocab_size)}: got {array.shape}"
        )
    if len(ids) != len(tokens) or not all(0 <= i < vocab_size for i in ids):
        raise ValueError(
            f"ids must be {len(tokens)} numbers from 0 to {vocab_size - 1}: got {ids}"
        )
    if not np.isfinite(array).all():
        raise ValueError("logits must be finite")
    array = array - array.max(1, keepdims=True)
    array = array - np.log(np.exp(array).sum(1, keepdims=True))
    steps = np.clip(np.round(-array / STEP), 0, 64 * 64 - 1).astype(int)
    return ["".join(ALPHABET[n // 64] + ALPHABET[n % 64] for n in row) for row in steps]
