"""The tokenization race: our Python against the `tokenizers` library, written in Rust.

Training: 256 merges on 185 KB, and 8,000 merges on ten million characters of documentation and of
code. Encoding: ten million characters of documentation, of code and of blanks, against `encode` on
the whole and `encode_batch` on its parts, each turn with nothing remembered from the one before.
One core each: the library's threads are switched off. Results must be equal, merge for merge and
id for id, or no speed is shown. Beside each case stands the memory that the work takes, in a
process of its own.
"""

import os
import random
import tempfile
from pathlib import Path

from llmbook.bench import memory
from llmbook.bench.memory import Peak
from llmbook.bench.race import positive, run_pair
from llmbook.tokenization import BPETokenizer

LONG_TURNS = 5  # a turn of the large cases takes seconds
LARGE_MERGES = 8_000


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add(
        "--training",
        type=positive,
        metavar="CHARACTERS",
        help="text to train on in the small case (default 185000; quick 20000)",
    )
    add(
        "--merges", type=positive, help="merges to learn in the small case (default 256; quick 20)"
    )
    add(
        "--large",
        type=positive,
        metavar="CHARACTERS",
        help="text to train on and to encode in the large cases (default 10000000; quick 20000)",
    )
    add(
        "--cases",
        choices=("training", "encoding", "all"),
        default="all",
        help="which cases to run (default all)",
    )


def run(options, report):
    """Race training, then encoding; `report` prints and records."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    quick = options.quick
    small = options.training or (20_000 if quick else 185_000)
    large = options.large or (20_000 if quick else 10_000_000)
    few = options.merges or (20 if quick else 256)
    many = few if quick else LARGE_MERGES
    documentation = read_documentation(max(small, large))
    texts = {"documentation": documentation[:large], "code": code(large)}
    if options.cases != "encoding":
        race_training(options, report, "documentation", documentation[:small], few)
        for name, text in texts.items():
            race_training(options, report, name, text, many)
    if options.cases != "training":
        texts["blanks"] = blanks(large, options.seed)
        for name, text in texts.items():
            race_encoding(options, report, name, text, many)


# --- texts


def read_documentation(size):
    """At least `size` characters of documentation where there are so many; else all there are."""
    from llmbook.data import documentation

    text = documentation().text
    return text if len(text) >= size else documentation("all", "full").text


def code(size):
    """Characters of Python code: files of the standard library, numpy and torch, taken in turn."""
    import numpy
    import torch

    folders = [Path(module.__file__).parent for module in (os, numpy, torch)]
    files = [sorted(folder.glob("**/*.py")) for folder in folders]
    files[0] = [path for path in files[0] if "site-packages" not in path.parts]
    random.Random(0).shuffle(files[2])
    text, read = [], 0
    for row in range(max(map(len, files))):
        for path in (rows[row] for rows in files if row < len(rows)):
            text.append(path.read_text("utf-8", "replace"))
            read += len(text[-1])
        if read >= size:
            break
    return "".join(text)[:size]


def blanks(size, seed):
    """Lines of blanks of many lengths, up to three thousand, with a word at the end of each."""
    g, lines, made = random.Random(seed), [], 0
    while made < size:
        blank = g.choice([" " * g.randrange(60), " " * g.randrange(3000), "\t" * g.randrange(40)])
        lines.append(blank + g.choice(["x\n", "return\n", "\n", "\n\n\n"]))
        made += len(lines[-1])
    return "".join(lines)[:size]


def parts_of(text, size=2**16):
    """A text as documents of that many characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


# --- cases


def race_training(options, report, name, text, merges):
    """Learn so many merges from a text, by each side."""
    size = merges + 257
    jobs = {
        "llmbook": lambda: BPETokenizer.train(text, size, backend="python"),
        "tokenizers": lambda: BPETokenizer.train(text, size, backend="tokenizers"),
    }
    different = len({job().to_json() for job in jobs.values()}) - 1
    case = f"train {_size(text)} {name}, {merges} merges"
    _race(options, report, case, jobs, different, len(text))
    if not options.quick:
        _tell_memory("train", text, size)


def race_encoding(options, report, name, text, merges):
    """Encode a text by each side, the whole and in parts."""
    ours = BPETokenizer.train_fast(text[: len(text) // 2], merges + 257)
    theirs, parts = ours.fast(), parts_of(text)

    def cold(work):
        ours._remembered.clear()
        return work()

    jobs = {
        "llmbook": lambda: cold(lambda: ours.encode(text)),
        "tokenizers": lambda: theirs.encode(text).ids,
    }
    different = float(jobs["llmbook"]() != jobs["tokenizers"]())
    _race(options, report, f"encode {_size(text)} {name}", jobs, different, len(text))
    jobs = {
        "llmbook": lambda: cold(lambda: [ours.encode(part) for part in parts]),
        "tokenizers": lambda: [found.ids for found in theirs.encode_batch(parts)],
    }
    different = float(jobs["llmbook"]() != jobs["tokenizers"]())
    case = f"encode {_size(text)} {name}, batch"
    _race(options, report, case, jobs, different, len(text))
    if not options.quick:
        _tell_memory("encode", text, ours.to_json())


def _size(text):
    size = len(text)
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1000:.0f} KB"


def _race(options, report, case, jobs, different, size):
    large = size > 1_000_000
    errors = {"llmbook": float(different), "tokenizers": 0.0}

    def outcomes():
        outcome = run_pair(
            case,
            jobs,
            errors,
            tolerance=0.0,
            device=options.device,
            repeats=min(options.repeats, LONG_TURNS) if large else options.repeats,
            warmup=1 if large else options.warmup,
        )
        return [outcome]

    report(case, outcomes)


# --- memory


def measured(work, side, text, given):
    """Bytes that a side takes above what it held before; to be called in a fresh process."""
    text = Path(text).read_bytes().decode()
    if work == "encode":
        ours = BPETokenizer.from_json(Path(given).read_text("utf-8"))
        encode = ours.encode if side == "llmbook" else ours.fast().encode
        with Peak() as peak:
            kept = encode(text)
        del kept
        return peak.bytes
    import tokenizers  # noqa: F401

    backend = "python" if side == "llmbook" else "tokenizers"
    with Peak() as peak:
        BPETokenizer.train(text, given, backend=backend)
    return peak.bytes


def peak_memory(work, side, text, given):
    """MB that one side takes above what it held before, in a process of its own; None elsewhere.

    work: "train", with given the size of the vocabulary, or "encode", with given a tokenizer's
    JSON. Linux tells a process's memory; on other systems this returns None.
    """
    if not memory.is_told():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_text(text, "utf-8", newline="")
        if work == "encode":
            (Path(folder) / "json").write_text(given, "utf-8")
            given = str(Path(folder) / "json")
        return memory.in_fresh_process(measured, work, side, str(path), given) / 2**20


def _tell_memory(work, text, given):
    found = {side: peak_memory(work, side, text, given) for side in ("llmbook", "tokenizers")}
    if None not in found.values():
        told = ", ".join(f"{side} {megabytes:.0f} MB" for side, megabytes in found.items())
        print(f"{'':34} memory at its peak, above that before: {told}", flush=True)
