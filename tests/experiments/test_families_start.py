"""Pretrained or from fresh weights: what is asked and counted, and that only the start differs."""

import json

import pytest
import torch

from llmbook.data import documentation
from llmbook.data.corpus import Document
from llmbook.experiments.families import start as module
from llmbook.experiments.families.exams import Mean, Tags, Texts, f1, found_names
from llmbook.experiments.families.family import Encoder, Special
from llmbook.experiments.families.models import read_corpus, shipped_folder
from llmbook.experiments.families.start import (
    EXAMS,
    LABELLED,
    LIBRARIES,
    PIECE,
    SETS,
    STARTS,
    exam,
    finetune,
    parameter_rows,
)
from llmbook.experiments.families.table import N_SEEDS, OUT
from llmbook.losses import IGNORED
from llmbook.models import load
from llmbook.tokenization import BPETokenizer

MADE = tuple(name for name in EXAMS if name not in SETS)


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.load(shipped_folder("encoder"))


@pytest.fixture(scope="module")
def special(tokenizer):
    return Special.of(tokenizer)


def test_the_record_has_five_seeds_of_each_start():
    record = json.loads(OUT.read_text("utf-8"))
    for name in EXAMS:
        assert set(record[name]) == {*STARTS, "counting"}
        for start in STARTS:
            assert len(record[name][start]) == N_SEEDS == 5
            assert all(0 <= score <= 1 for score in record[name][start])


def test_a_piece_is_tested_that_pretraining_did_not_read_and_has_the_class_of_its_library(
    tokenizer,
):
    task = exam("library", tokenizer)
    for split, side in (("train", task.train), ("validation", task.test)):
        texts = {name: "" for name in LIBRARIES}
        for document in documentation(split):
            name = document.name.split(".")[0]
            if name in texts:
                texts[name] += document.text
        for ids, label in side[:: max(1, len(side) // 60)]:
            assert 0 < len(ids) <= PIECE and tokenizer.decode(ids) in texts[LIBRARIES[label]]
    assert len(task.train) == LABELLED and len(task.test) > 200


def test_words_that_name_a_parameter_are_tagged_at_their_first_token(tokenizer):
    text = "Return the encoding of key_name, or keyboard if the_key is self.\n  default: none."
    signature = "(self, key_name, *keyboard, default=None, **rest)"
    document = Document("a.b", text, signature)
    rows = list(parameter_rows(document, tokenizer))
    assert [t for ids, _, _ in rows for t in ids] == tokenizer.encode(text, ())
    tagged = {}
    for ids, tags, words in rows:
        assert len(ids) == len(tags) <= PIECE
        asked = [i for i, tag in enumerate(tags) if tag != IGNORED]
        assert len(asked) == len(words)
        for i, word in zip(asked, words, strict=True):
            assert tokenizer.decode(ids[i:]).strip().startswith(word[:1])
            tagged[word] = tags[i]
    wanted = dict.fromkeys("Return the encoding of or if the_key is self none".split(), 0)
    assert tagged == wanted | dict.fromkeys(("key_name", "keyboard", "default"), 1)


def test_every_made_exam_can_be_learnt_from_a_batch_of_each_step(tokenizer):
    for name in MADE:
        task = exam(name, tokenizer)
        torch.manual_seed(0)
        model = task.on(Encoder(tokenizer).build())
        batch = task.batch(3, 7)
        for a, b, other in zip(batch, task.batch(3, 7), task.batch(3, 8), strict=True):
            assert torch.equal(a, b)
            assert a.shape[0] == other.shape[0] == 32
        assert not torch.equal(batch[0], task.batch(4, 7)[0])
        loss = task.loss(model, *batch)
        loss.backward()
        assert loss > 0 and model.body.tokens.weight.grad.abs().max() > 0


def test_scores_and_counting_of_texts(special):
    train = [([300, 301], 0), ([300, 302], 0), ([310, 301], 1), ([310, 311], 1)]
    task = Texts(train, [([300], 0), ([310, 302], 1), ([302, 302], 1)], 2, special)
    assert task.counting() == pytest.approx(2 / 3)

    def first_token(ids, mask):  # says 1 where the text begins with a token above 305
        assert (ids[:, 0] == special.cls).all() and mask.sum() == 3 + 4 + 4
        return torch.nn.functional.one_hot((ids[:, 1] > 305).long(), 2)

    assert task.score(first_token) == pytest.approx(2 / 3)


def test_scores_and_counting_of_tags(special):
    names = ("O", "B-x", "I-x")
    rows = [([300, 301, 302], [1, IGNORED, 1], ["Old", "man"]), ([303], [0], ["man"])] * 2
    rows += [([302], [0], ["man"])]
    test = [([300, 301, 303, 302], [1, IGNORED, 0, 0], ["old", "new", "man"])]
    task = Tags(rows, test, names, special)
    assert task.counting() == 1  # "man" was nothing three times, B-x twice
    said = torch.tensor([[0, 1, 2, 1, 0, 2]])  # at [CLS] 300 301 303 302 [SEP]

    def constant(ids, mask):
        assert ids.tolist() == [[special.cls, 300, 301, 303, 302, special.sep]]
        return torch.nn.functional.one_hot(said, 3)

    assert task.score(constant) == pytest.approx(2 / 3)  # one right, one too many


def test_a_mean_head_reads_no_padding(special, tokenizer):
    torch.manual_seed(0)
    model = Mean(Encoder(tokenizer).build().body, 3).eval()
    ids = torch.tensor([[special.cls, 300, special.sep, special.pad, special.pad]])
    mask = (ids != special.pad).long()
    with torch.no_grad():
        assert (model(ids, mask) - model(ids[:, :3], mask[:, :3])).abs().max() < 1e-5


def test_the_two_starts_differ_in_the_body_alone(tokenizer, monkeypatch):
    seen = {}

    def no_training(model, batch_at, config, loss, log):
        seen[len(seen)] = (model, [batch_at(step) for step in range(2)], config)

    monkeypatch.setattr(module, "train", no_training)
    task = exam("library", tokenizer)
    for start in STARTS:
        finetune(task, start, 4, tokenizer, 5, 2e-3)
    (a, batches, how), (b, others, same) = seen.values()
    assert how == same and how.steps == 5 and how.lr == 2e-3
    assert torch.equal(a.output.weight, b.output.weight)
    for x, y in zip(batches, others, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(x, y, strict=True))
    shipped = load("encoder").body.state_dict()
    assert all(torch.equal(v, shipped[k]) for k, v in a.body.state_dict().items())
    torch.manual_seed(4)
    fresh = Encoder(tokenizer).build().body.state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in b.body.state_dict().items())
    with pytest.raises(ValueError, match="start must be one of pretrained, fresh weights"):
        finetune(task, "other", 4, tokenizer, 5, 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_one_seed_repeats_its_record(start, tokenizer):
    record = json.loads(OUT.read_text("utf-8"))
    card = json.loads((shipped_folder("encoder") / "card.json").read_text("utf-8"))
    if read_corpus(tokenizer)[3]["train"]["sha256"] != card["data"]["train"]["sha256"]:
        pytest.skip("other versions have other documentation")
    task = exam("parameters", tokenizer)
    steps = record["_runs"]["parameters"]["steps"]
    score = finetune(task, start, 0, tokenizer, steps, module.RATE[start])
    assert abs(score - record["parameters"][start][0]) < 0.03


def test_f1_counts_exact_names():
    tags = "B-person I-person O B-place O".split()
    assert found_names(tags) == {(0, 1, "person"), (3, 3, "place")}
    assert f1([tags], [tags]) == 1
    assert f1([["B-person", "O", "O", "B-place", "O"]], [tags]) == 0.5
    assert f1([["O"] * 5], [tags]) == 0


def test_a_name_beyond_the_window_is_a_name_missed():
    tags = "B-person O O O B-place".split()
    assert f1([tags[:3]], [tags]) == pytest.approx(2 / 3)
