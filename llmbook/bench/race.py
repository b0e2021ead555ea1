"""How a fair race is run.

Two contestants do the same work in one process, on the same tensors. First the gate: each result
is compared with the truth, and a wrong one ends the race with no speed shown. Then the warm-up
(compiling and tuning fall in it), timed apart. Then they take turns, A B A B, so that whatever
else the machine does meets both. What is reported is the ratio within a turn: its median and its
20th and 80th percentile. On a GPU, device events time each run, a buffer larger than the L2 cache
is overwritten before it, and milliseconds are reported too. On a CPU a turn is as many runs as
last about 10 ms, and only ratios are reported: the times say more about the machine's other work.
"""

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from llmbook import provenance
from llmbook.bench.arguments import check_json, positive
from llmbook.data.folders import write_json

L2_FLUSH_BYTES = 256 * 2**20  # more than the L2 cache of today's GPUs
TURN_S = 0.01  # a turn on the CPU lasts about this long, or one run


class WrongResultError(ValueError):
    """A contestant's result is further from the truth than the race allows."""


@dataclass(frozen=True)
class Spread:
    """Median with the 20th and 80th percentile."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, values):
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered),
            ordered[math.floor(0.2 * last)],
            ordered[math.ceil(0.8 * last)],
        )


@dataclass(frozen=True)
class Outcome:
    """One race of `ours` against `peer`. speed: peer's time / ours, so 2.0 is twice as fast."""

    case: str
    ours: str
    peer: str
    speed: Spread
    errors: Mapping[str, float]  # each contestant's distance from the truth
    warm_up_s: Mapping[str, float]
    milliseconds: Mapping[str, Spread] = field(default_factory=dict)  # on a GPU only


def check_results(errors, tolerance):
    """The gate: raise WrongResultError unless every error is a number of at most `tolerance`."""
    for name, error in errors.items():
        if not error <= tolerance:  # so that nan is refused too
            raise WrongResultError(
                f"{name} is wrong: its error is {error:.2g}, at most {tolerance:.2g} is allowed"
            )


def run_pair(case, contestants, errors, *, tolerance, device, repeats, warmup):
    """Race two contestants, ours first, that do the same work each time they are called.

    errors: each contestant's distance from the truth, in units of the truth's size.
    Raises WrongResultError before anything is timed when one exceeds `tolerance`, and ValueError
    when there are not two contestants or one has no error.
    """
    if len(contestants) != 2 or set(contestants) != set(errors):
        raise ValueError(
            f"a race has two contestants, each with an error: "
            f"got {[*contestants]} and errors of {[*errors]}"
        )
    check_results(errors, tolerance)
    ours, peer = contestants
    warm_up = {name: _warm_up(run, warmup, device) for name, run in contestants.items()}
    runs = math.ceil(TURN_S * warmup / min(warm_up.values())) if device.type == "cpu" else 1
    seconds = {ours: [], peer: []}
    for _ in range(repeats):
        for name, run in contestants.items():
            seconds[name].append(_time(run, runs, device))
    speed = Spread.of([b / a for a, b in zip(seconds[ours], seconds[peer], strict=True)])
    times = {}
    if device.type == "cuda":
        times = {n: Spread.of([1000 * s for s in values]) for n, values in seconds.items()}
    return Outcome(case, ours, peer, speed, dict(errors), warm_up, times)


def _warm_up(run, times, device):
    start = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _time(run, runs, device):
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(runs):
            run()
        return time.perf_counter() - start
    torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device=device).zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def relative_error(got, truth):
    """The largest |got - truth| over several tensors, each in units of its truth's largest entry.

    Infinite where shapes differ, nan where got has one: both fail the gate.
    """
    worst = 0.0
    for g, t in zip(got, truth, strict=True):
        if g.shape != t.shape:
            return math.inf
        if t.numel():
            size = t.abs().max().item() or 1.0
            error = (g.to(t.dtype) - t).abs().max().item() / size
            if math.isnan(error):
                return math.nan
            worst = max(worst, error)
    return worst


# --- options and reports


def common_arguments(parser):
    """The options that every race has."""
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes and few repeats: does it run at all?")
    add("--repeats", type=positive, help="turns for each contestant (default 30; quick 3)")
    add("--warmup", type=positive, help="runs before the clock starts (default 3; quick 1)")
    add("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    add("--device", default="auto", help="auto, cpu or cuda (default auto)")
    add("--seed", type=int, default=0, help="seed of weights and data (default 0)")
    add("--json", type=Path, metavar="FILE", help="record the result in FILE")


def run_race(race, options, refuse):
    """Run a race's cases, print them as they finish, record them; 1 when a result was wrong.

    race: a module of this folder; race.run(options, report) calls report(case, outcomes, *args)
    where outcomes(*args) makes a list of Outcome. refuse(message): ends the program.
    """
    from llmbook.device import resolve_device

    if options.json is not None:
        check_json(options.json, refuse)
    try:
        options.device = resolve_device(options.device)
    except ValueError as error:
        refuse(f"--device: {error}")
    options.repeats = options.repeats or (3 if options.quick else 30)
    options.warmup = options.warmup or (1 if options.quick else 3)

    done = []
    wrong = {}

    def report(case, outcomes, *args):
        """Print and keep what outcomes(*args) makes; returned too, empty when it was wrong."""
        try:
            results = outcomes(*args)
        except WrongResultError as error:
            wrong[case] = str(error)
            print(f"{case:34} WRONG, so no speed is shown: {error}", flush=True)
            return []
        done.extend(results)
        for outcome in results:
            print(_line(outcome), flush=True)
        return results

    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        facts = provenance.machine(options.device)
        told = {**facts, "versions": provenance.in_words(facts["versions"])}
        print(*(f"{name}: {value}" for name, value in told.items()), sep="\n")
        print(
            f"speed = peer's time / ours, 1.00 is equal; median of {options.repeats} turns "
            "[20th, 80th percentile]\n"
        )
        race.run(options, report)
    finally:
        torch.set_num_threads(threads)
    if options.json is not None:
        _record(options, facts, done, wrong)
    return 1 if wrong else 0


def _line(outcome):
    speed, times = outcome.speed, ""
    if outcome.milliseconds:
        times = "  " + ", ".join(f"{n} {s.median:.3f} ms" for n, s in outcome.milliseconds.items())
    warm = ", ".join(f"{seconds:.2f} s" for seconds in outcome.warm_up_s.values())
    return (
        f"{outcome.case:34} {outcome.ours:10} vs {outcome.peer:10} {speed.median:6.3f} "
        f"[{speed.p20:.3f}, {speed.p80:.3f}]{times}  (warm-up {warm})"
    )


def _record(options, facts, done, wrong):
    content = {
        **facts,
        "command": options.command,
        "speed": "peer's time / ours: median, 20th and 80th percentile over the turns",
        "repeats": options.repeats,
        "wrong": wrong,
        "outcomes": [asdict(outcome) for outcome in done],
    }
    write_json(options.json, content)
