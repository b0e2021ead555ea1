"""All races of this machine, one after the other: `python -m llmbook bench` without a name.

Each race of SET runs in a process of its own, at sizes that two cores end within the minutes that
`--minutes` gives (6). A race whose peer is not there says so; one that does not fit in what is
left is stopped. At the end one table of ratios, and JSON for the page of benchmarks.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmbook.bench.arguments import check_json, positive

# race: its options. What tells most comes first, as the last ones may be cut off.
SET = {
    "recurrent": "--widths 32 128 --repeats 10",
    "attention": "--tokens 1024 --repeats 10",
    "scan": "--parts scan mamba2 --tokens 512 --against transformers --repeats 5",
    "moe": "--experts 8 --tokens 512 --repeats 5",
    "decoding": "--sizes small llama --batches 1 --tokens 48 --repeats 3",
    "tokenization": "--large 400000 --repeats 3",
    "models": "--sizes small medium --repeats 5",
    "training": "--repeats 5",
    "loading": "--layers 4 --repeats 3",
    "sft": "--repeats 3",
    "alignment": "--repeats 3",
}
BROKE_OFF = "broke off"
PEERS = ("transformers", "tokenizers", "trl")  # torch's version is told with the machine


def main(argv, races, prog):
    """Run the races, print the table, write `--json`.

    1 when a result was wrong, a race broke off, or none ran.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Race llmbook against its peers: all races of this machine, or the one named.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="races:\n"
        + "\n".join(f"  {name:13} {line}" for name, line in races.items())
        + f"\n\n`{prog} RACE --help` lists a race's own options.",
    )
    add = parser.add_argument
    add("--minutes", type=positive, default=6, help="for all races together (default 6)")
    add("--threads", type=positive, help="CPU threads (default: torch's own choice)")
    add("--races", nargs="+", choices=list(SET), default=list(SET), help="default: all")
    add("--quick", action="store_true", help="tiny sizes and few repeats: do they run at all?")
    add("--json", type=Path, metavar="FILE", help="record the results in FILE")
    options = parser.parse_args(argv)
    if options.json is not None:
        check_json(options.json, parser.error)
    from llmbook import provenance
    from llmbook.data.folders import write_json

    file = "" if options.json is None else str(options.json)
    told = [word.replace(file, Path(file).name) if file else word for word in argv]
    content = {**provenance.machine(), "command": provenance.command_line("bench", *told)}
    content["threads"] = options.threads or content["threads"]  # each race has its own process
    content |= {"peers": peers(), "cores": os.cpu_count()}
    content["waiting"] = _waiting()  # before our own races make the cores busy
    results = run_all(options)
    content |= {"races": results, "speed": "peer's time / ours: median, 20th, 80th percentile"}
    print("\n" + as_text(results))
    if options.json is not None:
        write_json(options.json, content)
    bad = [race for race in results.values() if race["wrong"] or BROKE_OFF in race["note"]]
    return 1 if bad or not any(race["outcomes"] for race in results.values()) else 0


def peers():
    """{package: version} of the peers that are installed beside torch."""
    found = {}
    for name in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def run_all(options):
    """{race: {"seconds", "outcomes", "wrong", "note", "command"}} of every race that was asked."""
    end, results = time.monotonic() + 60 * options.minutes, {}
    for name in options.races:
        print(f"{name} …", flush=True)
        results[name] = run_one(name, options, end - time.monotonic())
        told = results[name]["note"] or f"{len(results[name]['outcomes'])} cases"
        print(f"  {told} ({results[name]['seconds']:.0f} s)", flush=True)
    return results


def run_one(name, options, limit):
    """One race in a process of its own, stopped after `limit` seconds."""
    words = "--quick --repeats 1" if options.quick else SET[name]
    if options.threads:
        words += f" --threads {options.threads}"
    found = {"command": f"bench {name} {words}", "outcomes": [], "wrong": {}, "note": ""}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "race.json"
        command = [sys.executable, "-m", "llmbook", "bench", name, *words.split(), "--json"]
        try:
            if limit <= 0:
                raise subprocess.TimeoutExpired(command, limit)
            done = subprocess.run(
                [*command, str(file)], capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            found["note"] = "not within the minutes"
        else:
            if file.is_file():
                told = json.loads(file.read_text(encoding="utf-8"))
                found |= {key: told[key] for key in ("outcomes", "wrong")}
            else:
                found["note"] = _why(done.stderr)
    return found | {"seconds": round(time.monotonic() - begin, 1)}


def _why(stderr):
    """The last line of what a race said before it broke off."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1].partition(": ")[2] or lines[-1] if lines else "it said nothing"
    missing = "ModuleNotFoundError" in stderr or "ImportError" in stderr
    return f"{'not installed' if missing else BROKE_OFF}: {last}"


def as_text(results):
    """One table of ratios, a line a case; and what was not raced, with the reason."""
    lines = ["race          case                                  ours       peer          speed"]
    for name, race in results.items():
        for one in race["outcomes"]:
            speed = one["speed"]
            lines.append(
                f"{name:13} {one['case'][:37]:37} {one['ours']:10} {one['peer']:12} "
                f"{speed['median']:6.2f} [{speed['p20']:.2f}, {speed['p80']:.2f}]"
            )
        lines += [f"{name:13} {case}: WRONG, {why}" for case, why in race["wrong"].items()]
        if race["note"]:
            lines.append(f"{name:13} {race['note']}")
    cases = [one["speed"]["median"] for race in results.values() for one in race["outcomes"]]
    lost = sum(speed < 1 for speed in cases)
    seconds = sum(race["seconds"] for race in results.values())
    lines.append(
        f"\nspeed = peer's time / ours. {len(cases)} cases in {seconds:.0f} s; "
        f"the peer is faster in {lost}."
    )
    return "\n".join(lines)


def _waiting():
    """Processes that run or wait for a core, averaged over the last minute; None where unknown."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
