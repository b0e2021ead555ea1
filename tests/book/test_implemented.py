"""What is implemented: each row as it stands, and no model or module without one."""

from pathlib import Path

import pytest
from helpers.built_book import book  # noqa: F401 - a fixture
from helpers.implemented import ROWS, missing, problems

from llmbook.book import implemented
from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name[:30])
def test_what_a_row_names_is_there(row):
    assert row.where and row.tests
    assert problems(row, ROOT) == []


def test_no_public_model_and_no_module_of_alignment_decoding_and_ssm_is_missing():
    assert missing() == []


@pytest.mark.parametrize("lost", ["models.gpt: GPT", "ssm.chunks", "alignment.dpo: dpo_loss"])
def test_a_row_that_is_taken_out_is_missed(lost):
    kept = [
        row._replace(where=[entry for entry in row.where if not entry.startswith(lost)])
        for row in ROWS
    ]
    assert any(lost.partition(":")[0] in name for name in missing(kept))


def test_a_head_that_no_row_names_is_missed():
    row = next(row for row in ROWS if row.name == "RoBERTa")
    short = row._replace(where=[row.where[0].replace(" RobertaForMaskedLM", "")])
    kept = [short if one is row else one for one in ROWS]
    assert missing(kept) == ["models.roberta: RobertaForMaskedLM"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"where": ["models.gtp: GPT"]}, "No module named"),
        ({"where": ["models.gpt: GTP"]}, "models.gpt has no GTP"),
        ({"tests": ["models/test_gtp.py"]}, "there is no tests/models/test_gtp.py"),
        ({"tests": ["test_ngram.py"]}, "mentions none of GPT, gpt"),
        ({"taught": ["gtp"]}, "there is no chapter gtp"),
        ({"taught": ["pretraining: The walk"]}, "has no heading 'The walk'"),
    ],
)
def test_a_wrong_row_is_told(change, words):
    row = next(row for row in ROWS if row.name == "GPT-2")
    assert any(words in told for told in problems(row._replace(**change), ROOT))


def test_the_systems_that_the_book_speaks_of_are_there():
    names = " ".join(row.name for row in ROWS)
    for word in (
        "RNN LSTM GRU bidirectional Bahdanau Transformer BERT RoBERTa GPT T5 BART Llama Mistral "
        "Qwen Mixtral S4D Mamba Mamba-2 delta InstructGPT DPO PPO GRPO BPE WordPiece Unigram "
        "samplers speculative cache precision DDP FSDP quantisation distillation LoRA experts"
    ).split():
        assert word in names, word


def test_the_page_has_a_line_for_each(book):
    page = (book / "chapters/implemented.html").read_text(encoding="utf-8")
    assert page.count("<tr") == len(ROWS) + len(implemented.systems())
