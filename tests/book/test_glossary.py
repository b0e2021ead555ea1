"""The glossary: the names that it gives for weights are those that our models read and write."""

import re
from pathlib import Path

import pytest
import torch

from llmbook.models.bart import Bart, BartConfig
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.pretrained.layout import slots
from llmbook.models.t5 import T5, T5Config

GLOSSARY = Path(__file__).resolve().parents[2] / "chapters" / "glossary.md"
MODELS = {
    "GPT-2": [
        (
            GPT,
            GPTConfig,
            {
                "vocab_size": 9,
                "max_len": 4,
                "d_model": 8,
                "n_layers": 2,
                "n_heads": 2,
                "tied": False,
            },
        )
    ],
    "BERT": [(BertForMaskedLM, BertConfig, {"tied": tied}) for tied in (True, False)],
    "Llama": [(Llama, LlamaConfig, {"tied": False})],
    "T5": [(T5, T5Config, {}), (T5, T5Config, {"gated": True, "tied": False})],
    "BART": [(Bart, BartConfig, {"tied": tied}) for tied in (True, False)],
}


def column(name):
    """Pairs of cells, ours and the family's, from the section on weights."""
    section = GLOSSARY.read_text(encoding="utf-8").split("## Where the weights are")[1]
    at = None
    for line in section.split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "our name":
            at = cells.index(name) if name in cells else None
        elif at is not None and line.startswith("| ") and len(cells) > at:
            yield cells[0], cells[at]


def quoted(cell):
    """The names in backticks, as patterns: `*` is a number, `….` whatever stands before."""
    for name in re.findall(r"`([^`]+)`", cell):
        yield name, re.escape(name.strip("….")).replace(r"\*", r"\d+")


@pytest.mark.parametrize("family", MODELS)
def test_every_name_of_a_weight_is_one_that_the_models_read_and_write(family):
    ours, stored = set(), set()
    with torch.device("meta"):
        for cls, config, options in MODELS[family]:
            model = cls(config(**options))
            for slot in slots(model):
                ours.add(slot.ours)
                stored |= {name for name, _ in slot.parts} | set(slot.copies)
    rows = [(mine, theirs) for mine, theirs in column(family) if "`" in theirs]
    assert len(rows) >= 7
    for mine, theirs in rows:
        for name, pattern in quoted(theirs):
            assert any(re.search(rf"(^|[._]){pattern}([._]|$)", s) for s in stored), (family, name)
        names = list(quoted(mine))
        assert not names or any(
            re.search(rf"(^|[._]){p}([._]|$)", s) for _, p in names for s in ours
        ), (family, mine)


# --- the words, for readers


def words():
    """(term, what it means) of the first table."""
    section = GLOSSARY.read_text(encoding="utf-8").split("## Words\n")[1].split("\n## ")[0]
    rows = [
        re.split(r"(?<!\\)\|", line.strip("|")) for line in section.splitlines() if "|" in line
    ]
    return [(term.strip(), meaning.strip()) for term, meaning in rows[2:]]


def test_what_readers_look_for_is_there_in_the_order_of_the_alphabet():
    terms = [term for term, _ in words()]
    plain = [re.sub(r"[^a-z0-9 -]", "", term.lower()).lstrip("-") for term in terms]
    assert plain == sorted(plain)
    asked = "logit softmax temperature beam BLEU Muon RoPE entropy perplexity head latent sink"
    for word in asked.split():
        assert any(word.lower() in term.lower() for term in terms), word


@pytest.mark.parametrize("term, meaning", words(), ids=lambda v: v[:20])
def test_a_chapter_that_is_linked_uses_the_word(term, meaning):
    for name in re.findall(r"\]\((\w+)\.ipynb\)", meaning):
        text = (GLOSSARY.parent / f"{name}.ipynb").read_text(encoding="utf-8").lower()
        names = [part.strip(" $").lower() for part in term.split(",")]
        assert any(part in text for part in names), f"{name} does not speak of {term}"


def test_the_meaning_stands_second_in_every_table():
    """So that it is on the screen of a phone, where the last column is not."""
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "what it is" in cells or "what it means" in cells:
            assert cells[1].startswith("what it"), line
