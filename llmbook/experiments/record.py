"""What was trained once to be shown: `python -m llmbook record NAME`.

An experiment is a module with `OUT` and `run(options, record)`, and a line in EXPERIMENTS. It may
have `add_arguments(parser)` for options of its own, and `GOES_ON = True` where it makes what the
file lacks and keeps the rest. `record` is a `Recording`: it knows hardware, versions, commit and
command, and writes JSON after each part: a run that is stopped has lost one part at most.
"""

import argparse
import contextlib
import importlib
import json
import sys
import time
from pathlib import Path

import torch

import llmbook
from llmbook import checks, provenance
from llmbook.data.folders import write_json

# name: (module, what is trained)
EXPERIMENTS = {
    "small": ("small", "the small GPT that comes with the book"),
    "families": ("families.models", "an encoder, a decoder and an encoder-decoder, on one text"),
    "families_table": ("families.table", "what its pretraining gives an encoder"),
    "families_toys": ("families.toys", "masks and objectives on made languages, five seeds"),
    "multi30k": ("multi30k", "an English to German Transformer, and its BLEU"),
    "recurrent": ("recurrent", "what a recurrent network carries, and how far"),
    "attention": ("attention", "what looking back is worth"),
    "scaling": ("scaling", "small models in many sizes, on texts of many lengths"),
    "small_chat": ("small_chat", "the small model that follows instructions"),
    "sft": ("sft.runs", "what supervised fine-tuning gives, in many short runs"),
    "splits": ("splits", "how published tokenizers cut twenty texts; nothing is trained"),
    "moe": ("moe", "mixtures of experts beside dense layers"),
    "extrapolation": ("extrapolation", "positions trained on 32 tokens, tested on 256"),
    "rlhf": ("rlhf.runs", "from demonstrations to a reward model and policies"),
    "mamba": ("mamba", "what a state of fixed size can do"),
    "transformer": ("transformer", "the Transformer without its parts, where its norms stand"),
    "todays_decoder": ("todays_decoder", "from GPT's block to today's, one change at a time"),
    "reasoning": ("reasoning.runs", "written steps, many samples, GRPO"),
    "multi_head": ("multi_head", "what heads do, and what is lost without them"),
    "inference": ("inference", "smaller caches, usable windows, students"),
    "toy_world": ("toy_world", "tiny GPTs of a small world, one thing of their diet changed"),
    "pretraining": ("pretraining", "one thing changed at a time in a small run"),
    "inside": ("inside.runs", "a room read and edited, facts never told, a dictionary"),
    "outlook": ("outlook.runs", "pictures, retrieval, hybrids and diffusion in miniature"),
    "relatives": ("relatives", "three ways to cut words, trained alike"),
    "skip_gram": ("skip_gram", "words that learn by guessing their neighbours"),
}
RECORDED = Path(llmbook.__file__).parent / "book" / "recorded"


def recorded(path):
    """What a recording holds: {part: {key: found}}, and `_run`; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def by_seed(path, part, arm="", *names):
    """[found, …] of one part and arm of a recording, in the order of the seeds.

    Its keys are "arm/seed", or the seed alone. names: lead from what is recorded of a run to the
    value; without any, all of it.
    """
    found = {}
    for key, value in recorded(path).get(part, {}).items():
        owner, _, seed = key.rpartition("/")
        if owner == arm:
            for name in names:
                value = value[name]
            found[int(seed)] = value
    return [found[seed] for seed in sorted(found)]


class Recording:
    """A JSON file of what was measured, with where, when and by which command.

    content: what the file holds. `write` replaces the file whole: killed at any moment it holds
    the parts before or those with the new one.
    """

    def __init__(self, path, facts, command, content):
        self.path, self.content = Path(path), content
        self._facts, self._command, self._began = facts, command, time.monotonic()
        self._seconds = self.content.get("_run", {}).get("seconds", 0)  # of what it has already

    def about(self, **more):
        """Hardware, versions, threads, date, commit, command, and seconds since the last part."""
        seconds = round(time.monotonic() - self._began)
        return {**self._facts, "command": self._command, "seconds": seconds, **more}

    def write(self, part, values, **about):
        """Record one part of several; `_runs` tells of each how it came about."""
        self.content[part] = values
        self.content.setdefault("_runs", {})[part] = self.about(**about)
        self._save()

    def write_whole(self, values, **about):
        """Record everything at once, `_run` tells how it came about."""
        self.content = {**values, "_run": self.about(**about)}
        self._save()

    def make_missing(self, points, keep=None, tell=str):
        """Make every run that the file lacks, writing it after each: killed, one run is lost.

        points: (part, key, (function, *arguments)) of each, in order. keep(part, key, found): what
        is kept under content[part][key] of what the function returns; all of it when None.
        tell(kept): what is printed of it.
        """
        for part, key, (function, *arguments) in points:
            runs = self.content.setdefault(part, {})
            if key not in runs:
                found = function(*arguments)
                runs[key] = found if keep is None else keep(part, key, found)
                self.save()
                print(part, key, tell(runs[key]), flush=True)

    def save(self):
        """Write `content`, to which runs were added by key; `_run` tells how it came about.

        A file that was begun at another commit names both.
        """
        earlier = self.content.get("_run", {})
        commits = [*earlier.get("commits", [earlier.get("commit")]), self._facts["commit"]]
        commits = [commit for commit in dict.fromkeys(commits) if commit is not None]
        more = {"commits": commits} if len(commits) > 1 else {}
        self._seconds = self._seconds + time.monotonic() - self._began
        about = {**self.about(), "seconds": round(self._seconds)}
        self.content["_run"] = {**about, **more}
        self._save()

    def _save(self):
        write_json(self.path, self.content)
        self._began = time.monotonic()


@contextlib.contextmanager
def recording(path, command, *, device="cpu", threads=1, keep=False):
    """`with recording(path, command) as record: record.write(part, values)`.

    The commit is read now, before anything that is written changes the checkout. threads: of the
    CPU, put back at the end. keep: whether the parts that the file has stay in it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(checks.whole("threads", threads, least=1))
    try:
        content = recorded(Path(path)) if keep else {}
        yield Recording(path, provenance.machine(device), command, content)
    finally:
        torch.set_num_threads(before)


def main(argv=None):
    """Train and record the experiment that argv names, or list them.

    0 when all is recorded, 130 after Ctrl-C, 2 for bad input or what is missing.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m llmbook record",
        description="Train again what the book shows as recorded.",
        epilog="`python -m llmbook record NAME --help` lists an experiment's own options. Most "
        "take minutes to an hour of one core; what one took stands in its file.",
    )
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, (_, line) in EXPERIMENTS.items():
        # The options stand in the experiment's file, which is only read when it is asked for.
        names.add_parser(name, help=line, add_help=False)
    chosen, rest = parser.parse_known_args(argv)
    if chosen.name is None:
        if rest:
            parser.error(f"name an experiment before {' '.join(rest)}: {', '.join(EXPERIMENTS)}")
        parser.print_help()
        return 0
    module, line = EXPERIMENTS[chosen.name]
    experiment = importlib.import_module(f"llmbook.experiments.{module}")
    own = argparse.ArgumentParser(
        prog=f"{parser.prog} {chosen.name}",
        description=line,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = own.add_argument
    add("--out", type=Path, default=experiment.OUT, help="where it is written")
    add("--threads", type=int, default=1, help="of the CPU")
    if hasattr(experiment, "add_arguments"):
        experiment.add_arguments(own)
    options = own.parse_args(rest)
    command = provenance.command_line("record", chosen.name, *rest)
    return _run(experiment, options, command)


def _run(experiment, options, command):
    from llmbook.data import DownloadFailed
    from llmbook.device import resolve_device
    from llmbook.training.checkpoint import CheckpointNotWritten
    from llmbook.training.loop import Interrupted, TrainingDiverged

    try:
        options.device = resolve_device(getattr(options, "device", "cpu"))
        how = {"device": options.device, "threads": options.threads}
        keep = getattr(options, "only", None) or getattr(experiment, "GOES_ON", False)
        with recording(options.out, command, keep=keep, **how) as record:
            experiment.run(options, record)
    except Interrupted as stop:
        again = command if getattr(options, "resume", False) else f"{command} --resume"
        print(f"\n{stop}\nresume with: {again}", file=sys.stderr)
        return 130
    except (
        DownloadFailed,
        ImportError,
        ValueError,
        TypeError,
        TrainingDiverged,
        CheckpointNotWritten,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"recorded in {options.out}")
    return 0
