"""Checks of the exercises on inference: stop strings, caches, constraints, speculation."""

import itertools

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("inference/held_back", title="What may be shown?", difficulty=2, minutes=20)
def held_back(answer):
    stop = "abab."
    short = ("".join(few) for n in range(7) for few in itertools.product("ab.", repeat=n))
    for text in (*short, f"a{stop}b{stop}"):
        got = call(answer, text, stop)
        if not isinstance(got, str):
            raise NotYet("Return a string: the part of the text that may be shown now.")
        want = _shown(text, stop)
        if got == want:
            continue
        if stop in text:
            raise NotYet(f"{stop!r} stands in {text!r}: show what is before it, nothing more.")
        if not text.startswith(got):
            raise NotYet(f"{got!r} is no beginning of {text!r}: only its end is held back.")
        if len(got) > len(want):
            raise NotYet(
                f"Of {text!r} you show {got!r}, but what comes next may complete {stop!r}: "
                "what you showed of it cannot be taken back."
            )
        raise NotYet(f"Of {text!r} you show {got!r} and hold back more than could begin {stop!r}.")
    return "Right. A server streams exactly this: all but an end that may grow into the stop."


def _shown(text, stop):
    if stop in text:
        return text[: text.index(stop)]
    for k in range(min(len(stop), len(text)), 0, -1):
        if text.endswith(stop[:k]):
            return text[:-k]
    return text


@exercise("inference/cache_size", title="Bytes of a cache", difficulty=2, minutes=15)
def cache_size(answer):
    advice = (
        "Each global layer keeps a key and a value of n_kv_heads · head_dim numbers for every "
        "token, each window layer for the last `window` tokens, or all where there are fewer."
    )
    for tokens, window, layers, windowed in ((1000, 128, 4, 3), (50, 128, 6, 5), (7, 7, 2, 0)):
        held = (layers - windowed) * tokens + windowed * min(tokens, window)
        got = number(call(answer, tokens, layers, windowed, window, 8, 64))
        agree(got, 2 * held * 8 * 64 * 2, advice)
    return "Right. With five windows to one global layer a long text costs a sixth."


@exercise(
    "inference/passes", title="How far does a guess go?", difficulty=1, minutes=5, kind="predict"
)
def passes(answer):
    agree(
        number(answer),
        sum(0.8**i for i in range(5)),
        "The first guess stands with 0.8, the second with 0.8², …; and the model's own token "
        "comes in any case.",
        tolerance=5e-3,
    )
    return "Right: 1 + 0.8 + 0.8² + 0.8³ + 0.8⁴ = 3.36 tokens, where 5 would be the most."


@exercise("inference/left", title="Read the bars", difficulty=1, minutes=5, kind="figure")
def left(answer):
    from llmbook.decoding import probabilities
    from llmbook.models import load
    from llmbook.models.pretrained import SHIPPED
    from llmbook.tokenization import BPETokenizer

    tokenizer, model = BPETokenizer.load(SHIPPED / "small"), load("small").eval()
    ids = torch.tensor([[0, *tokenizer.encode("The length of the list is", ())]])
    with torch.no_grad():
        p = probabilities(model(ids)[0, -1], top_p=0.5)
    agree(
        number(answer),
        int((p > 0).sum()),
        "In the first figure choose text 1 at its last place, temperature 1, top-k all, min-p 0, "
        "and top-p 0.5; the line below the bars counts the tokens that are left.",
    )
    return "Right: half of the probability lies on so few of the 384 tokens."


@exercise(
    "inference/clock", title="Change the grammar", difficulty=2, minutes=20, kind="experiment"
)
def clock(answer):
    times = {f"{h:02d}:{m:02d}" for h in range(24) for m in range(60)}
    begins = {time[:n] for time in times for n in range(6)}
    for text in sorted(begins, key=len):
        got = call(answer, text)
        if not isinstance(got, (set, str, list, tuple, frozenset)):
            raise NotYet("Return the characters that may come next: a set, or a string of them.")
        want = {c for c in "0123456789:" if text + c in begins}
        if set(got) == want:
            continue
        if extra := sorted(set(got) - want):
            raise NotYet(f"After {text!r} you let {extra[0]!r} come, which no time of day has.")
        missing = sorted(want - set(got))
        raise NotYet(f"After {text!r} {missing[0]!r} may come too: some time of day goes on so.")
    return "Right. `generate(…, processors=[only(clock, begin)])` now writes nothing but times."
