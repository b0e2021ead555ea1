"""The start of every chapter: profile, device, precision, seed and style, said in one line."""

import dataclasses
import os
import random

import numpy as np
import torch

from llmbook import device as devices
from llmbook import provenance
from llmbook.book.display import publish
from llmbook.book.records import ledger_chapters, rows_of
from llmbook.checks import one_of, whole

PROFILES = ("smoke", "quick", "gpu", "full")
RUN_MIME = "application/vnd.llmbook.run+json"

_current = None


def resolve_profile(name="auto"):
    """The profile to run: a name from `PROFILES`, or for `"auto"` the one that fits this machine.

    `LLMBOOK_PROFILE` replaces `"auto"`. Otherwise a CUDA device means `gpu`, none means `quick`.
    """
    one_of("profile", name, ("auto", *PROFILES))
    if name == "auto":
        name = os.environ.get("LLMBOOK_PROFILE", "").strip() or (
            "gpu" if torch.cuda.is_available() else "quick"
        )
        one_of("LLMBOOK_PROFILE", name, PROFILES)
    return name


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a chapter: what it may use, and how large it should think."""

    chapter: str
    profile: str
    seed: int
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    unboxed: dict = dataclasses.field(default_factory=dict)  # id: (text, HTML) of claims in no box

    def checked(self):
        """Show the claims that stand in no box as one closed table: a chapter's last output."""
        if not self.unboxed:
            raise ValueError(
                "no claim of this chapter waits for the table: see claim(…, box=False)"
            )
        text = "\n".join(text for text, _ in self.unboxed.values())
        rows = "".join(row for _, row in self.unboxed.values())
        publish(
            text,
            f'<details class="claims-checked" id="checked"><summary>{len(self.unboxed)} more '
            f"statements that this chapter checked</summary><table>{rows}</table></details>",
        )

    @property
    def seeds(self):
        """The seeds that a trained experiment repeats: one on a CPU, three on a GPU."""
        return (
            [self.seed]
            if self.profile in ("smoke", "quick")
            else [self.seed + i for i in range(3)]
        )

    def pick(self, *, quick, smoke=None, gpu=None, full=None):
        """The value for this profile. `smoke` and `gpu` default to `quick`, `full` to `gpu`."""
        gpu = quick if gpu is None else gpu
        return {
            "smoke": quick if smoke is None else smoke,
            "quick": quick,
            "gpu": gpu,
            "full": gpu if full is None else full,
        }[self.profile]


def seed_everything(seed):
    """Seed Python's, NumPy's and torch's global generators."""
    seed = whole("seed", seed, least=0, most=2**31 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def start(chapter, profile="auto", seed=0):
    """Begin a chapter: resolve the profile and device, seed everything, set the style, say it.

    Returns a `Run`. Raises ValueError for an unknown chapter or profile, and for a seed that is no
    whole number from 0 to 2³¹ − 1, or TypeError.
    """
    global _current
    from llmbook.figures import style

    if not rows_of(chapter):
        one_of("chapter", chapter, ledger_chapters())
    profile = resolve_profile(profile)
    seed_everything(seed)
    device = torch.device("cpu") if profile == "quick" else devices.resolve_device("auto")
    if device.type == "cpu":
        # Small layers gain nothing from a second thread and lose much when the cores are shared;
        # and with one thread sums are added in the same order on every machine.
        torch.set_num_threads(1)
    dtype, reason = devices.choose_dtype(device)
    _current = Run(chapter, profile, seed, device, dtype, reason)
    style.use()
    versions = provenance.versions(device)
    where = devices.describe(device)
    text = f"profile {profile} · {where} · seed {seed}"
    publish(
        text,
        data={
            RUN_MIME: {
                "profile": profile,
                "device": where,
                "seed": seed,
                "threads": torch.get_num_threads(),
                "precision": reason,
                "versions": versions,
            }
        },
    )
    return _current


def current_run():
    """The run that `start` began in this process, or None."""
    return _current
