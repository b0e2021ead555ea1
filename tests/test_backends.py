"""One choice among the ways to compute a thing, and its reasons."""

import pytest

from llmbook.backends import Backends


def three(**lacking):
    """Backends of which those named in `lacking` cannot run, with the reason."""
    return Backends(
        what="this sum",
        names=("reference", "fast", "odd"),
        order=("fast", "odd", "reference"),
        why_not=lacking.get,
        reasons={"fast": "it is fast", "odd": "it can", "reference": "nothing else can"},
        passed_over={"fast": "never", "odd": "it is slower", "reference": "it is slowest"},
    )


def test_auto_takes_the_first_that_can_run_and_says_why_not_another():
    assert three().choose("auto") == "fast"
    told = three(fast="no GPU here").explain("auto")
    assert (told.backend, told.reason) == ("odd", "it can")
    assert told.others == {"reference": "it is slowest", "fast": "no GPU here"}
    assert str(told).splitlines()[0] == "odd: it can" and "not fast: no GPU here" in str(told)


def test_one_that_is_named_runs_or_is_refused_with_its_reason_and_never_replaced():
    told = three(fast="no GPU here").explain("reference")
    assert told.backend == "reference" and told.reason == "asked for by name"
    assert told.others == {"fast": "no GPU here", "odd": "not asked for"}
    with pytest.raises(ValueError, match="'fast' cannot run this sum: no GPU here; use"):
        three(fast="no GPU here").choose("fast")


def test_an_unknown_one_is_told_all_there_are():
    with pytest.raises(ValueError, match="one of auto, reference, fast, odd: got 'best'"):
        three().choose("best")
    with pytest.raises(TypeError, match="backend must be one of"):
        three().choose(None)
