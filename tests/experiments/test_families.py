"""The trio: equal sizes, the same text, objectives, curves, checkpoints; questions; pairs."""

import functools
import json
import shutil

import pytest
import torch

from llmbook.experiments.families import models as trio
from llmbook.experiments.families.answers import (
    ASKS,
    KINDS,
    LONGEST,
    PLACES,
    THINGS,
    best_spans,
    held_out,
    make_questions,
    question_batch,
    span_scores,
)
from llmbook.experiments.families.family import FAMILIES as CLASSES
from llmbook.experiments.families.family import MASKED, Encoder, Special, family_named
from llmbook.experiments.families.models import (
    PretrainingBatches,
    first_steps,
    held_out_loss,
    pretrain,
    read_corpus,
    shipped_families,
    shipped_folder,
)
from llmbook.experiments.families.table import OUT, PARTS
from llmbook.experiments.record import main as record_main
from llmbook.models import load, shipped
from llmbook.tokenization import BPETokenizer

# How far the mean loss of steps 10 to 14 may lie from the recorded one. On the record's own corpus
# it is the same to 0.0001. On two subsets of the documents, nine tenths of them, as other versions
# of Python would have: at most 0.015 (encoder 0.013, decoder 0.015, encoder-decoder 0.012). The
# decoder with a learning rate 0.8 or 1.3 times as high, with AdamW or a warm-up of 40 steps, not
# 50: 0.067 to 0.091; ten steps later less than half of that.
FAMILIES = tuple(CLASSES)
BAND, FIRST, LAST = 0.05, 10, 15
SLOW = pytest.mark.slow
RETRAINED = [f if f == "decoder" else pytest.param(f, marks=SLOW) for f in FAMILIES]


@pytest.fixture(scope="module")
def shipped_trio():
    return shipped_families()


@pytest.fixture(scope="module")
def corpus(shipped_trio):
    return read_corpus(shipped_trio[1])


def test_the_three_ship_with_equal_sizes_one_tokenizer_and_a_card_each(shipped_trio):
    models, tokenizer, cards = shipped_trio
    assert set(FAMILIES) <= set(shipped())
    counts = [model.n_parameters for model in models.values()]
    assert max(counts) <= 1.02 * min(counts)
    for family, model in models.items():
        folder, card = shipped_folder(family), cards[family]
        assert (folder / "model.safetensors").stat().st_size <= 3e6
        own = BPETokenizer.load(folder)
        assert own.to_json() == tokenizer.to_json() and len(own) == model.config.vocab_size
        assert card["parameters"] == model.n_parameters
        assert card["tokens"] == cards["decoder"]["tokens"]
        assert card["data"]["train"]["sha256"] == cards["decoder"]["data"]["train"]["sha256"]
        assert card["data"]["train"]["versions"]["python"]
        for name in (
            "commit",
            "hardware",
            "versions",
            "date",
            "command",
            "seconds",
            "recipe",
            "objective",
            "licence",
        ):
            assert card[name], name
        assert "dirty" not in card["commit"]
        assert len(card["first_losses"]) >= 100
        validation = card["validation_curve"]
        assert validation[-1][0] == card["recipe"]["steps"]
        assert validation[-1][1] < validation[0][1] - 2
        Special.of(own)


def test_a_fresh_model_of_each_family_has_the_shipped_one_s_shape(shipped_trio):
    models, tokenizer, _ = shipped_trio
    for family, model in models.items():
        fresh = family_named(family, tokenizer).build()
        assert {n: p.shape for n, p in fresh.named_parameters()} == {
            n: p.shape for n, p in model.named_parameters()
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_folder_to_the_same_logits(family, shipped_trio):
    transformers = pytest.importorskip("transformers")
    model = shipped_trio[0][family]
    theirs, found = getattr(transformers, model.architecture).from_pretrained(
        shipped_folder(family), output_loading_info=True, dtype=torch.float32
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    ids = torch.randint(30, 1280, (2, 17), generator=torch.Generator().manual_seed(0))
    inputs = {"decoder_input_ids": ids[:, :5]} if family == "encoder_decoder" else {}
    with torch.no_grad():
        want = theirs.eval()(ids, **inputs).logits
        got = model(ids, *inputs.values())
    assert (got - want).abs().max() < 1e-4


@pytest.mark.parametrize("family", RETRAINED)
def test_the_first_steps_follow_the_recorded_curve(family, corpus, shipped_trio):
    train_ids, _, tokenizer, _ = corpus
    _, history = pretrain(family, train_ids, None, tokenizer, first_steps(LAST))
    recorded = shipped_trio[2][family]["first_losses"]
    here = sum(history.losses[FIRST:LAST]) / (LAST - FIRST)
    there = sum(recorded[FIRST:LAST]) / (LAST - FIRST)
    assert abs(here - there) <= BAND
    assert abs(history.losses[0] - recorded[0]) <= 4 * BAND  # one batch: 0.18 on a subset


def test_the_shipped_weights_have_the_validation_loss_that_their_cards_state(corpus, shipped_trio):
    _, validation_ids, tokenizer, _ = corpus
    for family, model in shipped_trio[0].items():
        batches = PretrainingBatches(family_named(family, tokenizer), validation_ids, seed=1)
        stated = shipped_trio[2][family]["validation_curve"][-1][1]
        assert abs(held_out_loss(model, batches, batches=4) - stated) <= 0.4


def test_the_three_read_the_same_windows_in_the_same_order(shipped_trio):
    _, tokenizer, _ = shipped_trio
    special = Special.of(tokenizer)
    ids = torch.randint(30, 1280, (4000,), generator=torch.Generator().manual_seed(1))
    batches = {
        name: PretrainingBatches(family_named(name, tokenizer), ids, batch_size=3)(2)
        for name in FAMILIES
    }
    text, targets = batches["decoder"]
    assert text.shape == (3, 128) and torch.equal(text[:, 1:], targets[:, :-1])
    inputs, asked = batches["encoder"]
    assert inputs.shape == (3, 130)
    assert torch.equal(torch.where(asked >= 0, asked, inputs)[:, 1:-1], text)
    assert (inputs[:, 0] == special.cls).all() and (inputs[:, -1] == special.sep).all()
    assert abs((asked >= 0).double().mean().item() - MASKED) < 0.02
    inputs, asked = batches["encoder_decoder"]
    for row, answers, whole in zip(inputs.tolist(), asked.tolist(), text.tolist(), strict=True):
        spans, current = {}, None
        for token in answers:
            if token in special.sentinels:
                current = spans.setdefault(token, [])
            elif token not in (special.end, -100):
                current.append(token)
        assert [t for x in row[:-1] for t in spans.get(x, [x])] == whole
        assert row[-1] == special.end and sum(map(len, spans.values())) == 19


def test_a_step_s_batch_never_varies(shipped_trio):
    _, tokenizer, _ = shipped_trio
    ids = torch.randint(30, 1280, (4000,), generator=torch.Generator().manual_seed(1))
    batches = PretrainingBatches(Encoder(tokenizer), ids, batch_size=3)
    assert not torch.equal(batches(6)[0], batches(7)[0])
    for a, b in zip(batches(7), batches(7), strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_refused(shipped_trio):
    _, tokenizer, _ = shipped_trio
    with pytest.raises(ValueError, match="family must be one of encoder, decoder"):
        family_named("both", tokenizer)
    with pytest.raises(ValueError, match="n must be a whole number from 1 to 2960: got 2961"):
        first_steps(2961)
    plain = BPETokenizer.train(["some text " * 30], 300)
    with pytest.raises(ValueError, match=r"special token \[PAD\]"):
        Special.of(plain)


# --- the table


def test_the_recorded_table_says_of_every_part_how_it_came_about():
    record = json.loads(OUT.read_text("utf-8"))
    assert set(record["_runs"]) == set(record) - {"_runs"} == set(PARTS)
    for name in ("hardware", "versions", "date", "commit", "command", "steps", "seconds"):
        assert all(run[name] for run in record["_runs"].values()), name
    assert not any("dirty" in run["commit"] for run in record["_runs"].values())


# --- answers in a passage


@pytest.mark.parametrize("kind", ASKS)
def test_qa_asks_unseen_pairs_and_the_answer_is_a_span_of_the_passage(kind, shipped_trio):
    _, tokenizer, _ = shipped_trio
    special = Special.of(tokenizer)
    assert all(len(tokenizer.encode(" " + w, ())) == 1 for w in (*THINGS, *PLACES, *KINDS))
    pairs = {}
    for unseen in (False, True):
        questions = make_questions(300, kind, tokenizer, special, unseen=unseen, seed=1)
        again = make_questions(300, kind, tokenizer, special, unseen=unseen, seed=1)
        other = make_questions(300, kind, tokenizer, special, unseen=unseen, seed=2)
        assert questions == again and questions != other
        pairs[unseen] = {
            (named[-1], words)
            for q in questions
            for fact in q.facts
            for named in fact[:1]
            for words in fact
        }
        assert all(held_out(*pair) == unseen for pair in pairs[unseen])
        for q in questions:
            thing = q.facts[q.asked][0][-1]
            assert len({named[-1] for named, _ in q.facts}) == 3  # one of them is meant
            first, last = q.passage
            assert first <= q.start <= q.end <= last and q.end - q.start < LONGEST
            answer = tokenizer.decode(q.ids[q.start : q.end + 1]).split()
            assert answer == list(q.facts[q.asked][kind == "where"])
            text = ". ".join(f"{' '.join(a)} in {' '.join(b)}" for a, b in q.facts) + "."
            assert tokenizer.decode(q.ids[first : last + 1]).strip() == text
            asked = tokenizer.decode(q.ids[1 : first - 1]).strip()
            assert asked == ASKS[kind].format(thing)
            assert q.segments == [0] * first + [1] * (len(q.ids) - first)
        assert {q.end - q.start for q in questions} == {0, 1, 2}
        assert {q.asked for q in questions} == {0, 1, 2}
    assert not pairs[False] & pairs[True]


def test_qa_takes_the_best_span_of_the_passage_and_counts_it_by_its_place(shipped_trio):
    scores = torch.zeros(3, 6, 2)
    scores[0, 0] = 9.0  # outside the passage
    scores[0, 2, 0], scores[0, 3, 1] = 2.0, 2.0
    scores[1, 4, 0], scores[1, 2, 1] = 2.0, 3.0  # the best end lies before the best start
    scores[2, 1, 0], scores[2, 5, 1], scores[2, 3, 1] = 2.0, 2.0, 1.0  # too long together
    allowed = torch.arange(6).expand(3, 6) > 0
    predicted = best_spans(scores, allowed)
    assert predicted[0].tolist() == [2, 3] and predicted[2].tolist() == [1, 3]
    start, end = predicted[1].tolist()
    assert end == 2 and 1 <= start <= 2
    answers = torch.tensor([[2, 3], [3, 5], [4, 4], [1, 1]])
    guesses = torch.tensor([[2, 3], [4, 4], [1, 2], [1, 3]])
    found = span_scores(guesses, answers)
    assert found["exact match"] == 0.25
    assert found["F1"] == pytest.approx((1 + 2 / 4 + 0 + 2 / 4) / 4)
    _, tokenizer, _ = shipped_trio
    special = Special.of(tokenizer)
    questions = make_questions(4, "where", tokenizer, special, unseen=True)
    ids, mask, segments, allowed, answers = question_batch(questions, special)
    for i, q in enumerate(questions):
        inside = allowed[i].nonzero().flatten().tolist()
        assert (inside[0], inside[-1]) == q.passage and mask[i].sum() == len(q.ids)
        assert ids[i, : len(q.ids)].tolist() == q.ids and answers[i].tolist() == [q.start, q.end]
        assert segments[i, inside].all() and not segments[i, : inside[0]].any()


# --- stopped and called again


def test_a_stopped_pretraining_goes_on_where_it_was(tmp_path, monkeypatch):
    few = functools.partial(trio.held_out_loss, batches=2)
    monkeypatch.setattr(trio, "held_out_loss", few)
    monkeypatch.setattr(trio, "read_corpus", functools.cache(read_corpus))

    def record(out):
        options = ["--only", "encoder", "--steps", "2", "--save-every", "1", "--out", str(out)]
        return record_main(["families", *options])

    assert record(tmp_path / "whole") == 0
    card = json.loads((tmp_path / "whole/encoder/card.json").read_text())
    assert card["tokens"] == 2 * 16 * 128
    # killed after its first checkpoint: the later ones and the model are not there
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for path in (cut / "encoder").iterdir():
        if path.is_file():
            path.unlink()
    saved = sorted((cut / "encoder/run/checkpoints").glob("step-*"))
    assert len(saved) == 2
    shutil.rmtree(saved[-1])
    assert record(cut) == 0
    a, b = (load(str(folder / "encoder")).state_dict() for folder in (tmp_path / "whole", cut))
    assert all(v.equal(b[k]) for k, v in a.items())
