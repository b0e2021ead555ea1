"""How three published tokenizers cut twenty texts: recorded, since their files do not ship.

The files are fetched first, at pinned versions, and named by their folder:

    tests/published/fetch.sh FOLDER
    LLMBOOK_PUBLISHED=FOLDER python -m llmbook record splits

`published_splits()` reads what was recorded.
"""

import hashlib
import json
import os
from pathlib import Path

from llmbook.experiments.record import RECORDED
from llmbook.tokenization import load

OUT = RECORDED / "published_splits.json"

PUBLISHED = {  # name: (folder, licence)
    "Qwen 3": ("qwen3", "Apache-2.0"),
    "gpt-oss": ("gptoss", "Apache-2.0"),
    "DeepSeek V3": ("deepseek_v3", "MIT"),
}

TEXTS = [
    "Hello, world!",
    "The cat isn't on the mat.",
    "THE CAT ISN'T ON THE MAT.",
    "unbelievable antidisestablishmentarianism",
    "strawberry",
    " strawberry",
    "camelCaseHTTPServer snake_case_name",
    "1234567890",
    "3.14159 and 2,718,281",
    "    def f(x):\n        return x ** 2\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "https://example.com/path?query=1#part",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Съешь же ещё этих мягких французских булок",
    "猫坐在垫子上。",
    "ネコはマットの上にいます。",
    "고양이가 매트 위에 있다.",
    "القطة على السجادة",
    "बिल्ली चटाई पर बैठी है।",
    "🐈 👩🏽‍🚀 🏳️‍🌈",
    "\n\n\n   \t end",
    "SolidGoldMagikarp",
]


def add_arguments(parser):
    """Where the published files lie."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=os.environ.get("LLMBOOK_PUBLISHED"),
        help="where tests/published/fetch.sh has put the files",
    )


def run(options, record):
    """Cut every text by every tokenizer, and write it all."""
    if options.folder is None:
        raise ValueError("folder must be where the published files lie: see --folder")
    cut = {}
    for name, (folder, licence) in PUBLISHED.items():
        path = Path(options.folder) / folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"folder must hold {folder}/tokenizer.json: got {options.folder}")
        tokenizer = load(path)
        splits = [cut_by(tokenizer, text) for text in TEXTS]
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        cut[name] = {"licence": licence, "sha256": sha256, "splits": splits}
    record.write_whole({"texts": TEXTS, "tokenizers": cut})


def cut_by(tokenizer, text):
    """{"tokens": texts, "ids": numbers}: a text as a byte-level tokenizer cuts it.

    Bytes that are no character by themselves are written as "\\xe7".
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    tokens = [tokenizer.decode_bytes([i]).decode("utf-8", "backslashreplace") for i in ids]
    return {"tokens": tokens, "ids": ids}


def published_splits():
    """{name: {text: [token texts]}} as recorded. Raises FileNotFoundError where nothing was."""
    content = json.loads(OUT.read_text(encoding="utf-8"))
    return {
        name: {t: one["tokens"] for t, one in zip(content["texts"], part["splits"], strict=True)}
        for name, part in content["tokenizers"].items()
    }
