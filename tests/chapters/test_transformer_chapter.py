"""The Transformer's ablations: what the chapter asserts and says of a part is what was recorded."""

import ast
import json
import re
from pathlib import Path

import pytest

from llmbook.book import recorded

CHAPTER = Path(__file__).resolve().parents[2] / "chapters" / "transformer.ipynb"
PAST = recorded("transformer")
ROWS = {  # what the text calls a part: (claim, its row in the claim)
    **{
        words: ("transformer-each-part-fixes-a-weakness", f"without {part}: loss rises by")
        for words, part in {
            "Residual connections": "residual",
            "The factor √d on the embeddings": "√d",
            "Positions": "positions",
            "Several heads": "heads",
            "Norms": "norm",
            "Feed-forward networks": "feed-forward",
            "The factor 1/√d_k": "1/√d_k",
        }.items()
    },
    **{
        name: ("transformer-activations", f"{name}: loss minus ReLU's")
        for name in ("GELU", "SwiGLU")
    },
}


def cells(kind):
    notebook = json.loads(CHAPTER.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def bounds(id):
    """The rows of a claim that the chapter bounds, where they are named literally."""
    for source in cells("code"):
        if f'claim("{id}"' in source:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.keyword) and node.arg == "bounds":
                    return {k.value for k in node.value.keys if isinstance(k, ast.Constant)}
    raise AssertionError(f"no claim {id} with bounds")


def clear_of_zero(values):
    """Farther from 0 than the values lie apart: what the chapter calls to carry weight."""
    width = max(values) - min(values)
    return min(values) >= width or max(values) <= -width


@pytest.mark.parametrize("words", ROWS)
def test_parts_are_bounded_and_said_to_carry_weight_if_their_effect_clears_its_spread(words):
    id, row = ROWS[words]
    values = PAST[id][row]
    assert len(values) >= 3
    assert (row in bounds(id)) == clear_of_zero(values)

    (text,) = (source for source in cells("markdown") if "- **Residual connections**" in source)
    said = re.search(
        rf"^- \*\*{re.escape(words)}\*\*,? (?:carry|carries) (weight|none)\b", text, re.MULTILINE
    )
    assert said, f"the text says nothing of {words}"
    assert (said[1] == "weight") == clear_of_zero(values)


def test_every_part_that_is_trained_without_is_recorded_and_spoken_of():
    (source,) = (source for source in cells("code") if "PARTS = [" in source)
    parts = ast.literal_eval(re.search(r"PARTS = (\[[^]]*\])", source)[1])
    named = {row.split(":")[0].removeprefix("without ") for _, row in ROWS.values()}
    assert set(parts) == named | {"nothing"}


def test_the_translators_exact_match_is_asserted_and_was_nearly_perfect_with_every_seed():
    id = "transformer-each-part-fixes-a-weakness"
    row = "the translator, all parts: exact match on unseen sentences"
    assert min(PAST[id][row]) >= 0.97
    (source,) = (source for source in cells("code") if f'claim("{id}"' in source)
    bound = re.search(r'EXACT: ">= ([\d.]+)"', source)
    assert bound and float(bound[1]) >= 0.95


def test_what_the_text_says_of_the_recorded_german_is_in_the_record():
    record = recorded("multi30k")
    (text,) = (source for source in cells("markdown") if "Thirty BLEU" in source)
    assert round(record["BLEU"]["greedy"]) == 30
    assert f"{record['_run']['seconds'] / 60:.0f} minutes of one CPU core" in text
    assert 0.5 <= record["BLEU"]["beam 4"] - record["BLEU"]["greedy"] < 1.5
    told = " ".join(answer for _, answer, _ in record["examples"])
    asked = " ".join(english for english, _, _ in record["examples"])
    for quoted in ("Ein Boxer", "den Dach"):
        assert f"*{quoted}*" in text and quoted in told
    assert (
        "snowmobiles" in asked
        and "neemobil" not in told
        and record["_run"]["training"]["optimizer"] == "muon"
    )
