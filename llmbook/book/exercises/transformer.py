"""Checks of the exercises on the encoder–decoder Transformer: small odd-sized inputs."""

import torch
import torch.nn.functional as F

from llmbook.book.check import NotYet, agree, call, exercise


def _random(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def _norm(x):
    """A norm with a weight that is not 1, so that its place shows."""
    return 1.7 * F.layer_norm(x, x.shape[-1:]) + 0.3


def _sublayer(x):
    return torch.tanh(x) * 2 + x.flip(-1)


@exercise("transformer/add_and_norm", title="Before or after", difficulty=1, minutes=10)
def add_and_norm(answer):
    for x in _random(1, (2, 5, 7), (1, 3, 5)):
        post, pre = _norm(x + _sublayer(x)), x + _sublayer(_norm(x))
        got = [call(answer, x, _sublayer, _norm, place) for place in ("post", "pre")]
        if all(torch.is_tensor(g) and g.shape == x.shape for g in got):
            if torch.allclose(got[0], pre) and torch.allclose(got[1], post):
                raise NotYet("Both are there, with the names swapped: post is the paper's.")
            if torch.allclose(got[1], _norm(x) + _sublayer(_norm(x))):
                raise NotYet(
                    "With pre-norm the norm is for the sub-layer alone: what is added "
                    "to is the stream as it came."
                )
        agree(got[0], post, "Post-norm: add first, then normalise the sum.")
        agree(
            got[1],
            pre,
            "Pre-norm: x goes round the norm untouched; only the sub-layer sees it normalised.",
        )
    return "Right. One line each, and a different way to train."


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


@exercise("transformer/noam", title="Warm up", difficulty=1, minutes=10)
def noam(answer):
    for d_model, warmup in ((512, 4000), (96, 30)):
        for step in (1, warmup // 2, warmup, 3 * warmup):
            want = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
            when = "before" if step < warmup else "after" if step > warmup else "at"
            agree(
                call(answer, step, d_model, warmup),
                want,
                f"Not yet {when} the end of the warm-up, step {step} of {warmup} with "
                f"d_model={d_model}: {want:.3g} is expected.",
                tolerance=1e-9,
            )
    return "Right. The two curves meet exactly at step w."


@exercise("transformer/smooth", title="Not quite so sure", difficulty=2, minutes=20)
def smooth(answer):
    (logits,) = _random(2, (9, 7))
    targets = torch.tensor([3, 0, 6, -100, 2, 2, -100, 5, 1])
    for eps in (0.0, 0.1, 0.45):
        want = F.cross_entropy(logits, targets, label_smoothing=eps)
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


@exercise("transformer/visible", title="Who sees whom", difficulty=2, minutes=15)
def visible(answer):
    for lengths, longest in (([5, 3, 1], 5), ([2, 4], 6)):
        own = torch.arange(longest) < torch.tensor(lengths)[:, None]
        want = own[:, None, :] & torch.ones(longest, longest).tril().bool()
        got = call(answer, torch.tensor(lengths), longest)
        if torch.is_tensor(got) and got.dtype != torch.bool:
            raise NotYet(f"A bool tensor is expected, True = may attend, and this is {got.dtype}.")
        if torch.is_tensor(got) and got.shape == want.shape and torch.equal(got, ~want):
            raise NotYet("The other way round: True means may attend.")
        agree(
            got,
            want,
            "Entry (b, i, j): j ≤ i, and j is a token of sentence b, no padding. "
            "Compare the rows of the shortest sentence.",
        )
    return "Right. Two masks, joined by and."


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
