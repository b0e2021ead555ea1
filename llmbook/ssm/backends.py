"""Which way to compute a scan: chosen by name or by order, and told with its reasons."""

from collections.abc import Callable
from dataclasses import dataclass


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
    """The backends of one scan for one input.

    names: all. order: those that "auto" tries, the first that can run is taken. why_not(name): a
    sentence, or None where it can run. reasons, passed_over: {name: sentence} for the one that
    "auto" takes, and for one that could run too.
    """

    names: tuple
    order: tuple
    why_not: Callable
    reasons: dict
    passed_over: dict

    def choose(self, backend):
        """The name of what runs; ValueError where the one that is named cannot."""
        if backend == "auto":
            return next(name for name in self.order if self.why_not(name) is None)
        if backend not in self.names:
            raise ValueError(f"backend must be 'auto' or one of {self.names}: got {backend!r}")
        if reason := self.why_not(backend):
            raise ValueError(
                f"backend={backend!r} cannot run this scan: {reason}; "
                "use backend='auto' or 'reference'"
            )
        return backend

    def explain(self, backend):
        """A `BackendChoice`, to be printed."""
        chosen = self.choose(backend)
        why = self.reasons[chosen] if backend == "auto" else "asked for by name"
        others = {n: self.why_not(n) or self.passed_over[n] for n in self.names if n != chosen}
        return BackendChoice(chosen, why, others)
