"""Which of several ways computes a thing: chosen by name or by order, told with its reasons."""

from collections.abc import Callable
from dataclasses import dataclass

from llmbook.checks import one_of


@dataclass(frozen=True)
class BackendChoice:
    """What would run: `backend`, why, and what keeps each other backend out."""

    backend: str
    reason: str
    others: dict

    def __str__(self):
        lines = [f"{self.backend}: {self.reason}"]
        return "\n".join(lines + [f"not {name}: {why}" for name, why in self.others.items()])


@dataclass(frozen=True)
class Backends:
    """The backends of one computation for one input.

    what: what they compute, for errors ("this scan"). names: all. order: those that "auto" tries,
    the first that can run is taken. why_not(name): a sentence, or None where it can run. reasons,
    passed_over: {name: sentence} for the one that "auto" takes, and for one that could run too.
    """

    what: str
    names: tuple
    order: tuple
    why_not: Callable
    reasons: dict
    passed_over: dict

    def choose(self, backend):
        """The name of what runs; ValueError where the one that is named cannot."""
        if backend == "auto":
            return next(name for name in self.order if self.why_not(name) is None)
        one_of("backend", backend, ("auto", *self.names))
        if reason := self.why_not(backend):
            raise ValueError(
                f"backend={backend!r} cannot run {self.what}: {reason}; "
                "use backend='auto' or 'reference'"
            )
        return backend

    def explain(self, backend):
        """A `BackendChoice`, to be printed."""
        chosen = self.choose(backend)
        if backend == "auto":
            why, over = self.reasons[chosen], self.passed_over
        else:
            why, over = "asked for by name", dict.fromkeys(self.names, "not asked for")
        others = {n: self.why_not(n) or over[n] for n in self.names if n != chosen}
        return BackendChoice(chosen, why, others)
