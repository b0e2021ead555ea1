"""The tokenization race: its cases run, its gate closes, its memory is that of the work."""

import sys

import pytest

from llmbook import bench
from llmbook.bench import tokenization
from llmbook.tokenization import BPETokenizer


def test_every_case_runs_in_small_and_is_told(capsys):
    assert bench.main(["tokenization", "--quick", "--repeats", "1"]) == 0
    told = capsys.readouterr().out
    for case in (
        "train 20 KB documentation, 20 merges",
        "train 20 KB code",
        "encode 20 KB blanks,",
    ):
        assert case in told
    assert told.count("llmbook    vs tokenizers") == 9


def test_a_wrong_id_closes_the_race(capsys, monkeypatch):
    encode = BPETokenizer.encode
    monkeypatch.setattr(BPETokenizer, "encode", lambda self, text: encode(self, text)[:-1])
    assert bench.main(["tokenization", "--quick", "--repeats", "1", "--cases", "encoding"]) == 1
    told = capsys.readouterr().out
    assert told.count("WRONG") == 6 and "vs tokenizers" not in told


def test_texts_have_the_size_asked_for_and_the_parts_are_the_text():
    for text in (tokenization.code(50_000), tokenization.blanks(50_000, 0)):
        assert len(text) == 50_000 and "".join(tokenization.parts_of(text, 999)) == text
    assert tokenization.blanks(9_000, 1) != tokenization.blanks(9_000, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's memory")
def test_memory_is_that_of_the_work():
    tokenizer = BPETokenizer.train("a b c " * 50, 260)
    small, large = (
        tokenization.peak_memory("encode", "llmbook", "word 1 " * n, tokenizer.to_json())
        for n in (10, 600_000)
    )
    assert large - small > 15  # 1.8 million ids of eight bytes
