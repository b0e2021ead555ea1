"""The measures that alignment shares."""

import dataclasses

import pytest
import torch

from llmbook import evaluation as ev
from llmbook.alignment import chat
from llmbook.data.verifiable import SEEN, examples, mixture
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer


def report(rights, kind="swap"):
    asked = examples(kind, len(rights), side="held-out")
    answers = [
        ev.Answered(e, e.answer if right else "pan tun", True) for e, right in zip(asked, rights)
    ]
    return ev.Report(answers)


@pytest.fixture(scope="module")
def untuned():
    tokenizer = chat.chat_tokenizer(BPETokenizer.load(SHIPPED / "small"))
    end = tokenizer.special_tokens[chat.END]
    return chat.grow(load("small"), len(tokenizer), eos_id=end), tokenizer


def test_an_answer_is_exact_when_it_is_the_text_and_ended():
    (question,) = examples("quotes", 1, side="held-out")
    exact = ev.Answered(question, question.answer, True)
    assert exact.exact and exact.well_formed
    endless = dataclasses.replace(exact, ended=False)
    assert not endless.exact and not endless.well_formed
    other = dataclasses.replace(exact, text='"pan"')
    assert not other.exact and other.well_formed
    assert not dataclasses.replace(exact, text="pan").well_formed


def test_shares_by_kind():
    both = ev.Report(report([1, 1, 0, 1]).answers + report([0, 1], "count").answers)
    assert both.by_kind() == {"swap": 0.75, "count": 0.5}
    assert both.exact() == 4 / 6
    assert both.errors_of_form("count") == 0.5 and both.errors_of_form("swap") == 0
    with pytest.raises(ValueError, match="kind must be one that was examined"):
        both.exact("sum")


def test_every_model_is_asked_the_same_questions_and_none_was_trained_on():
    asked = ev.questions(n=20)
    assert asked == ev.questions(n=20) and len(asked) == 20 * 16
    trained = {(e.kind, e.instruction, e.input) for e in mixture(SEEN, 4000, seed=5)}
    assert not trained & {(e.kind, e.instruction, e.input) for e in asked}


def test_wilson_s_interval_by_its_definition():
    """Its ends are the shares p that lie z standard errors of p from what was seen."""
    for right, n in ((0, 10), (7, 10), (60, 64), (64, 64)):
        share, low, high = ev.wilson(right, n)
        assert share == right / n and 0 <= low <= share <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                error = (end * (1 - end) / n) ** 0.5
                assert abs(abs(end - share) / error - ev.Z95) < 1e-9
    with pytest.raises(ValueError, match="right must be"):
        ev.wilson(11, 10)


@pytest.mark.parametrize(
    "freedom, known", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (1000, 1.962)]
)
def test_student_s_quantiles_are_the_tables(freedom, known):
    assert ev.student_t95(freedom) == pytest.approx(known, rel=3e-3)


def test_pairing_takes_out_what_both_share():
    easy_and_hard = [1.0, 5.0, 9.0, 2.0, 7.0]
    better = [x + 0.5 + 0.01 * i for i, x in enumerate(easy_and_hard)]
    mean, low, high = ev.paired_difference(easy_and_hard, better)
    assert mean == pytest.approx(0.52) and 0.49 < low < high < 0.55
    difference = ev.paired_difference(report([0, 1, 0, 1]), report([1, 1, 1, 1]))
    assert difference[0] == 0.5
    with pytest.raises(ValueError, match="the same questions"):
        ev.paired_difference(report([1, 0]), report([1, 0], "count"))
    with pytest.raises(ValueError, match="two or more pairs"):
        ev.paired_difference([1.0], [2.0])


def test_a_paired_interval_holds_the_truth_in_about_95_of_100_cases():
    draw, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        a = torch.randn(6, generator=draw)
        b = a + 0.3 + torch.randn(6, generator=draw)
        _, low, high = ev.paired_difference(a.tolist(), b.tolist())
        hits += low <= 0.3 <= high
    assert 365 <= hits <= 393


def test_an_examination_asks_and_keeps_what_was_replied(untuned):
    asked = ev.questions(("swap", "count"), 3)
    found = ev.evaluate(*untuned, asked, max_new_tokens=5)
    assert [a.example for a in found.answers] == asked
    assert found.exact() <= 1 and found.kinds == ["swap", "count"]
    before = [{"role": "system", "content": "Be brief."}]
    other = ev.evaluate(*untuned, asked, before=before, max_new_tokens=5)
    assert [a.text for a in other.answers] != [a.text for a in found.answers]


def test_the_likelihood_rank_finds_what_the_model_holds_likely(untuned):
    model, tokenizer = untuned
    english, noise = "Return the name of the file.", "zq@x ~ vv#kj qq zz 9x"
    assert ev.choice_rank(model, tokenizer, "Describe it", [english, noise, noise + "!"]) == 1
    assert ev.choice_rank(model, tokenizer, "Describe it", [noise, english]) == 2
    sums = [english, "a"]  # a sum favours the short one
    assert ev.choice_rank(model, tokenizer, "Describe it", sums, mean=False) == 2
    with pytest.raises(ValueError, match="choices must be two"):
        ev.choice_rank(model, tokenizer, "x", ["a"])


def test_planted_copies_are_found_and_chance_is_not():
    asked = ev.questions(("repeat", "without", "sum"), 30)
    trained = mixture(("repeat", "without", "sum"), 900)
    assert len(ev.contaminated(asked, trained)) <= 2
    planted = [dataclasses.replace(e, instruction="Please say") for e in asked[::3]]
    found = ev.contaminated(asked, [*trained, *planted])
    assert set(asked[::3]) <= set(found) and len(found) <= 32


def test_the_base_text_has_the_base_models_ids(untuned):
    model, tokenizer = untuned
    stream = ev.base_text(tokenizer, 2000)
    assert torch.equal(stream, ev.base_text(BPETokenizer.load(SHIPPED / "small"), 2000))
    assert 1 < ev.base_nats(model, stream) < 2.2
