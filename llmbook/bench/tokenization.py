"""The tokenization race: our readable Python against the `tokenizers` library, written in Rust.

Training: 256 merges on 185 KB, one core each (the library's threads are switched off). Encoding:
documentation text of 1 MB, each turn with nothing remembered from the one before. Results must be
equal, merge for merge and id for id, or no speed is shown.
"""

from __future__ import annotations

import os

from llmbook.bench.race import positive, run_pair


def add_arguments(parser) -> None:
    """The options of this race."""
    add = parser.add_argument
    add(
        "--training",
        type=positive,
        metavar="CHARACTERS",
        help="text to train on (default 185000; quick 20000)",
    )
    add(
        "--encoding",
        type=positive,
        metavar="CHARACTERS",
        help="text to encode (default 1000000; quick 20000)",
    )
    add("--merges", type=positive, help="merges to learn (default 256; quick 20)")


def run(options, report) -> None:
    """Race training, then encoding; `report` prints and records."""
    from llmbook.data import documentation
    from llmbook.tokenization import BPETokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    quick = options.quick
    text = documentation().text
    training = text[: options.training or (20_000 if quick else 185_000)]
    encoding = text[-(options.encoding or (20_000 if quick else 1_000_000)) :]
    size = 257 + (options.merges or (20 if quick else 256))
    ours = BPETokenizer.train(training, size, backend="python")
    theirs = ours.fast()

    def train(backend):
        return lambda: BPETokenizer.train(training, size, backend=backend)

    def encode():
        ours._remembered.clear()
        return ours.encode(encoding)

    def race(case, contestants, wrong):
        return [
            run_pair(
                case,
                contestants,
                {"llmbook": float(wrong), "tokenizers": 0.0},
                tolerance=0.0,
                device=options.device,
                repeats=options.repeats,
                warmup=options.warmup,
            )
        ]

    case = f"train {len(training) / 1000:.0f} KB, {size - 257} merges"
    report(
        case,
        lambda: race(
            case,
            {"llmbook": train("python"), "tokenizers": train("tokenizers")},
            ours.to_json() != train("tokenizers")().to_json(),
        ),
    )
    case = f"encode {len(encoding) / 1e6:.2f} MB"
    report(
        case,
        lambda: race(
            case,
            {"llmbook": encode, "tokenizers": lambda: theirs.encode(encoding).ids},
            encode() != theirs.encode(encoding).ids,
        ),
    )
