"""Checks of the exercises on what is inside: an edit, calibration, what guessing is worth."""

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("inside/patch", title="Put it back", difficulty=2, minutes=15)
def patch(answer):
    gen = torch.Generator().manual_seed(1)
    states = torch.randn(4, 2, 5, 3, generator=gen)  # layers, batch, tokens, d_model
    x = torch.randn(2, 5, 3, generator=gen)
    for layer, place in ((1, 2), (3, -1)):
        change = call(answer, states, layer, place)
        if not callable(change):
            raise NotYet("Return a function change(layer, x), which `through` will call.")
        for at in range(4):
            given, want = x.clone(), x.clone()
            got = change(at, given)
            if got is None:
                raise NotYet("change(layer, x) returns nothing: it should return x, or the new x.")
            if not torch.equal(given, x):
                raise NotYet("x itself was written into: take x.clone() first.")
            if at != layer:
                agree(got, x, f"Asked for layer {layer}; after {at} blocks x should stay.")
                continue
            want[:, place] = states[layer][:, place]
            if torch.equal(got, states[layer]):
                raise NotYet("You put back all places; one was asked for.")
            agree(got, want, "At `place`, the vector of `states[layer]`; all else as it was.")
    return "Right. With it you can ask of any vector of a network what it carries."


@exercise("inside/calibration_error", title="How far off", difficulty=2, minutes=20)
def calibration_error(answer):
    from llmbook.experiments.inside import facts

    confidence = torch.tensor([0.05, 0.33, 0.38, 0.61, 0.62, 0.7, 0.88, 0.95, 1.0, 0.99])
    confidence = confidence.double()
    right = torch.tensor([False, True, False, True, False, True, True, False, False, True])
    for bins in (10, 4, 1):
        got = number(call(answer, confidence, right, bins))
        signed = (confidence - right.double()).mean().item()
        if bins > 1 and abs(got - abs(signed)) < 1e-6:
            raise NotYet("That is the gap of all answers together: too bold and too shy cancel.")
        agree(
            got,
            facts.calibration_error(confidence, right, bins),
            "In each bin: |mean confidence − share right|, weighted by the share of all answers "
            "in it. A confidence of 1 belongs to the last bin; an empty bin counts nothing.",
        )
    return "Right."


@exercise("inside/colder", title="Colder", difficulty=1, minutes=5, kind="predict")
def colder(answer):
    got = number(answer)
    want = 0.7**4 / (0.7**4 + 0.3**4)
    if abs(got - 0.845) < 0.002:
        raise NotYet("That is temperature 0.5: the odds squared. 0.25 is colder.")
    if abs(got - 0.7**4) < 1e-3:
        raise NotYet("The power is right; it still has to be divided by the sum of both.")
    agree(got, want, "Both shares to the power 1/T, then divided by their sum.", tolerance=2e-3)
    return "Right: 0.967. Thirty in a hundred have become three."


@exercise("inside/lost", title="Where the map tears", difficulty=1, minutes=5, kind="figure")
def lost(answer):
    from llmbook.experiments.inside import runs

    seeds = runs.over_seeds("walker", "back and forth")
    mean = {n: sum(one[str(n)]["room"] for one in seeds) / len(seeds) for n in runs.TIMES}
    want = next(n for n in runs.TIMES if mean[n] < 0.97)
    got = number(answer)
    if got not in runs.TIMES:
        raise NotYet(f"One of the measured numbers is asked for: {runs.TIMES}.")
    if got > want:
        raise NotYet("True there, too, but it began earlier.")
    agree(got, want, "Read the blue line, the room: there it is still at 0.97 or above.")
    return "Right. The likeliest letter is still a door then: that measure sees nothing yet."


@exercise("inside/pays", title="When to answer", difficulty=2, minutes=20, kind="experiment")
def pays(answer):
    for wrong in (0, 0.25, 1, 3):
        for p in (0.01, 0.19, 0.21, 0.49, 0.51, 0.74, 0.76, 0.99):
            got = call(answer, p, wrong)
            want = p - (1 - p) * wrong > 0
            if bool(got) != want:
                raise NotYet(
                    f"p = {p}, a wrong answer costs {wrong}: answering is worth "
                    f"{p - (1 - p) * wrong:.2f} on average, declining 0."
                )
    return "Right: p above wrong / (1 + wrong). At a cost of 0 that is always."
