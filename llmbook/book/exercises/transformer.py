"""Checks of the exercises on the encoder–decoder Transformer: small odd-sized inputs."""

from unittest import mock

import torch
import torch.nn.functional as F

from llmbook.book.check import NotYet, agree, call, chosen, exercise, number
from llmbook.experiments import transformer as runs
from llmbook.experiments import translator as lab


def _random(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def _norm(x):
    """A norm with a weight that is not 1, so that its place shows."""
    return 1.7 * F.layer_norm(x, x.shape[-1:]) + 0.3


def _sublayer(x):
    return torch.tanh(x) * 2 + x.flip(-1)


@exercise("transformer/decoder_inputs", title="Shift", difficulty=1, minutes=10)
def decoder_inputs(answer):
    targets = torch.tensor([[7, 9, 4, 2, -100], [5, 2, -100, -100, -100], [3, 8, 6, 4, 2]])
    for bos, pad in ((1, 0), (11, 12)):
        want = torch.tensor([[bos, 7, 9, 4, 2], [bos, 5, 2, pad, pad], [bos, 3, 8, 6, 4]])
        got = call(answer, targets, bos, pad)
        if torch.is_tensor(got) and got.shape == want.shape and (got < 0).any():
            raise NotYet("There is a −100 left, which no embedding has a row for: put pad there.")
        agree(
            got,
            want,
            "What does the decoder know when it must say targets[:, t]? The first "
            f"row's inputs are {want[0].tolist()} for targets {targets[0].tolist()}.",
        )
    return "Right: at each place it has read what stands before."


def _written_out(*_, **__):
    raise NotYet("F.cross_entropy has this built in: write it out, from log_softmax on.")


@exercise("transformer/smooth", title="Not quite so sure", difficulty=2, minutes=20)
def smooth(answer):
    (logits,) = _random(2, (9, 7))
    targets = torch.tensor([3, 0, 6, -100, 2, 2, -100, 5, 1])
    for eps in (0.0, 0.1, 0.45):
        want = F.cross_entropy(logits, targets, label_smoothing=eps)
        with mock.patch.object(F, "cross_entropy", _written_out):
            got = call(answer, logits, targets, eps)
        other = F.cross_entropy(logits, targets, label_smoothing=eps * 7 / 6)
        if eps and torch.is_tensor(got) and got.ndim == 0 and torch.allclose(got.double(), other):
            raise NotYet(
                "Nearly: here ε is spread over all V tokens, the right one among them; "
                "yours spreads it over the wrong ones only."
            )
        agree(
            got,
            want,
            f"ε = {eps}: (1 − ε) times the usual loss plus ε times the mean of "
            "−log p over all tokens; rows with target −100 do not count, neither above nor "
            "below the fraction.",
        )
    return "Right, and equal to torch's."


def _parameters(vocab_size, d_model, layers, d_ff):
    attention = 4 * d_model**2 + 4 * d_model
    feed_forward = 2 * d_model * d_ff + d_ff + d_model
    norm = 2 * d_model
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    return vocab_size * d_model + layers * (encoder + decoder)


@exercise("transformer/count", title="On the back of an envelope", difficulty=2, minutes=20)
def count(answer):
    for case in ((37_000, 512, 6, 2048), (101, 12, 3, 40), (7, 6, 1, 5)):
        want, got = _parameters(*case), call(answer, *case)
        biases = case[2] * (12 * case[1] + 2 * case[3] + 2 * case[1])
        if isinstance(got, (int, float)) and got == want - biases:
            raise NotYet("The matrices and norms are right. Every linear layer has a bias, too.")
        agree(
            got,
            want,
            f"V, d, layers, d_ff = {case}: {want:,} are expected, and this is "
            f"{got!r}. Count one encoder layer: attention 4d² + 4d, the FFN's two matrices and "
            "two biases, two norms with weight and bias.",
            tolerance=1e-12,
        )
    return "Right, to the last parameter: 63,082,496 for the base model."


def _speaker(text, vocab_size=9):
    """A model that says a text whatever the source, if read as a decoder is; and its calls."""
    calls = []

    def model(source, written):
        written = [int(t) for t in written]
        calls.append(written)
        logits = torch.full((len(written), vocab_size), -2.0)
        for place in range(len(written)):
            known = written[1 : place + 1] == text[:place] and place < len(text)
            logits[place, text[place] if known else 3] = 1.5
            logits[place, int(source[0])] += 0.5
        return logits

    return model, calls


@exercise("transformer/translate", title="One at a time", difficulty=3, minutes=25)
def translate(answer):
    for text, source in (([5, 3, 7, 2], [6, 4]), ([2], [8]), ([4, 4, 8, 6, 5, 2], [3])):
        model, calls = _speaker(text)
        got = call(answer, model, torch.tensor(source), 1, 2, 20)
        got = [int(t) for t in got]
        if len(calls) > len(text):
            raise NotYet("It goes on after the end: stop as soon as </s> has been said.")
        if calls and calls[0] != [1]:
            raise NotYet("Before anything is written the decoder reads one token: bos.")
        if got == text:
            raise NotYet("Nearly: eos ends the text and is no part of it.")
        if got[:1] == [1]:
            raise NotYet("Nearly: bos begins what the decoder reads and is no part of the text.")
        if got != text[:-1]:
            raise NotYet(
                f"{text[:-1]} is expected and {got} came out. The logits of the last "
                "place name the next token; it is appended, and all is read again."
            )
    endless, _ = _speaker([4] * 50)
    got = [int(t) for t in call(answer, endless, torch.tensor([5]), 1, 2, 7)]
    if got != [4] * 7:
        raise NotYet(
            "A model that never stops must be stopped after `most` tokens: 7 are "
            f"expected, {len(got)} came out."
        )
    return "Right. That is all of greedy decoding; a cache makes it fast."


SHIFTED = ("layer norm", "RMSNorm", "both", "neither")


@exercise("transformer/shifted", title="Five more", difficulty=1, minutes=5, kind="predict")
def shifted(answer):
    picked = chosen(answer, SHIFTED)
    if picked == "layer norm":
        raise NotYet("Layer norm takes the mean off first, and what all numbers share with it.")
    if picked == "both":
        raise NotYet("One of the two takes the mean off before it divides. Which one?")
    if picked == "neither":
        raise NotYet("Divide (6, 4) and (1, −1) by their root mean squares: are they alike?")
    return "Right: layer norm takes the mean off, and the 5 with it; RMSNorm has no mean."


@exercise("transformer/looks", title="Whose subject?", difficulty=1, minutes=5, kind="figure")
def looks(answer):
    agree(
        number(answer),
        _plural_weight(),
        "Type the sentence as it is given, choose layer and head, click the verb's ending (the "
        "last token before the end) and read the line below the map.",
        tolerance=0.02,
    )
    return "Right. Try the other heads: which of them ask the subject?"


def _plural_weight(text="some wolves followed the quiet girl", layer=1, head=3, word=1, last=-2):
    """The weight on a source word of a head of the first figure's network, for a written token."""
    model = runs.shipped_model()
    source = lab.encode(text)
    with torch.no_grad():
        target = [*lab.write(model, [source])[0], lab.EOS]
        weights, _ = lab.activations(model, *lab.collate([(source, target)]))
    return weights[0, layer, head, last, word].item()


@exercise(
    "transformer/output_norm", title="A third place", difficulty=2, minutes=25, kind="experiment"
)
def output_norm(answer):
    for x in _random(1, (2, 5, 7), (1, 3, 5)):
        post, pre = _norm(x + _sublayer(x)), x + _sublayer(_norm(x))
        want, got = x + _norm(_sublayer(x)), call(answer, x, _sublayer, _norm)
        for known, name in ((post, "post-norm"), (pre, "pre-norm")):
            if torch.is_tensor(got) and got.shape == x.shape and torch.allclose(got, known):
                raise NotYet(f"That is {name}. Here the norm is for the sub-layer's output alone.")
        agree(
            got,
            want,
            "The stream goes round both, untouched; what the sub-layer says is normalised, and "
            "then added.",
        )
    return "Right. Train it at both rates, at once and with warm-up: where does it stand?"
