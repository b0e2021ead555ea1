"""Tokenizers as they are published: the library's ids on a megabyte of everything, read and
rewritten.

`tests/published/fetch.sh FOLDER` brings five of them; any other folder with a tokenizer.json that
lies beside them is tested too.
"""

import os
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest
from helpers.tokenization_subject import LANGUAGES
from tokenizers import Tokenizer

from llmbook.data import documentation
from llmbook.tokenization import BPETokenizer, load

pytestmark = pytest.mark.published

FETCHED = ["deepseek_v3", "gptoss", "llama2", "llama3_1", "qwen3"]
BYTE_LEVEL = {"deepseek_v3", "gptoss", "llama3_1", "qwen3", "gpt4o", "gpt35turbo", "claude"}
FOLDER = Path(os.environ.get("LLMBOOK_PUBLISHED") or "nowhere")
NAMES = sorted({*FETCHED, *(path.parent.name for path in FOLDER.glob("*/tokenizer.json"))})


@cache
def mixed():
    """Over a megabyte: prose, code, every script of Unicode 14, digits, blanks, special names."""
    g, sizes = random.Random(0), 0
    prose = documentation().text
    library = sorted(Path(os.__file__).parent.glob("*.py"))
    code = "".join(path.read_text("utf-8") for path in library[:60])
    scripts = {}
    for c in map(chr, range(0x110000)):
        if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
            scripts.setdefault(unicodedata.name(c, "unnamed").split()[0], []).append(c)
    every, scripts = [c for cs in scripts.values() for c in cs], list(scripts.values())
    odd = [
        "it's DON'T we'LL 'ſ",
        "１２３ 12345678 ٣٤٥",
        "e\u0301 ﬁ ㊗ ㋿ \u1100\u1161",
        "👩🏽‍🚀🐈‍⬛",
        "\r\n\r\n  \n\n\t ",
    ]
    odd += [
        "<|endoftext|>",
        "<|im_start|>user",
        "<think>",
        "<s>",
        "camelCaseHTTPServer's",
        "---///\n\n//",
        " " * 70,
    ]
    parts = [LANGUAGES]
    while sizes < 1_100_000:
        kind = g.random()
        if kind < 0.6:
            text = prose if kind < 0.3 else code
            start = g.randrange(len(text) - 4000)
            parts.append(text[start : start + g.randrange(4000)])
        elif kind < 0.7:
            parts.append("".join(g.choices(every, k=g.randrange(200))))
        elif kind < 0.85:
            script = g.choice(scripts)
            words = [
                "".join(g.choices(script, k=g.randrange(1, 9))) for _ in range(g.randrange(60))
            ]
            parts.append(" ".join(words))
        elif kind < 0.9:
            parts.append("".join(g.choices("0123456789 .,", k=g.randrange(200))))
        else:
            parts.append(" " * g.randrange(9) + g.choice(odd) + g.choice(["", "\n", " "]))
        sizes += len(parts[-1].encode())
    return "".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_file_gives_the_librarys_ids_and_is_written_back_without_a_change(
    name, tmp_path
):
    path = FOLDER / name / "tokenizer.json"
    ours, library, text = load(path), Tokenizer.from_file(str(path)), mixed()
    assert isinstance(ours, BPETokenizer) == (name in BYTE_LEVEL) or name not in FETCHED
    ids = library.encode(text).ids
    assert ours.encode(text) == ids
    assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids, True) == library.decode(ids)
    ours.save(tmp_path)
    rewritten, again = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load(tmp_path)
    assert rewritten.encode(text).ids == ids == again.encode(text)
    assert rewritten.get_vocab_size() == library.get_vocab_size()
    assert rewritten.decode(ids[:50_000]) == library.decode(ids[:50_000])
