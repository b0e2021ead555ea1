"""English to German: batches, translations, the record, resuming; on a toy pair of languages."""

import dataclasses
import json
import re
import signal
import sys

import pytest
import torch

from llmbook.data import DownloadFailed
from llmbook.experiments import multi30k as subject
from llmbook.experiments.multi30k import (
    CPU,
    END,
    GPU,
    OUT,
    PAD,
    SEARCHES,
    SPECIAL,
    Captions,
    collate,
    encode,
    run_for,
    train_translator,
)
from llmbook.experiments.record import main
from llmbook.losses import IGNORED
from llmbook.tokenization import BPETokenizer

NAMES = [("dog", "Hund"), ("cat", "Katze"), ("bird", "Vogel"), ("fish", "Fisch")]
VERBS = [("runs", "rennt"), ("sleeps", "schläft"), ("eats", "isst")]
TOY = [
    (f"The {a} and the {b} see a {c} that {v} .", f"{b2} , {a2} : {c2} {v2} .")
    for a, a2 in NAMES
    for b, b2 in NAMES
    for c, c2 in NAMES
    for v, v2 in VERBS
]
TINY = dict(pieces=330, d_model=32, layers=1, dropout=0.0)
SHORT = dataclasses.replace(
    CPU, steps=8, batch_size=16, warmup=2, evaluate_every=4, checkpoint_every=3
)


@pytest.fixture
def toy(monkeypatch):
    """The captions are a toy: (training, validation, test) pairs."""
    order = torch.randperm(len(TOY), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [TOY[i] for i in order]
    sides = {"train": rows[40:], "validation": rows[:20], "test": rows[20:40]}
    monkeypatch.setattr(subject, "multi30k", sides.__getitem__)
    return sides


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train([text for pair in TOY for text in pair], vocab_size=330)


def test_a_batch_is_padded_after_the_end_and_padding_does_not_count():
    source, target, mask = collate([([5, END], [7, 8, END]), ([6, 4, 3, END], [9, END])])
    assert source.tolist() == [[5, END, PAD, PAD], [6, 4, 3, END]]
    assert target.tolist() == [[7, 8, END], [9, END, IGNORED]]
    assert mask.tolist() == [[1, 1, 0, 0], [1] * 4]


def test_each_epoch_reads_each_pair_once_in_an_order_of_its_own(tokenizer):
    captions = Captions(TOY, tokenizer, 10, seed=1)
    steps = -(-len(TOY) // 10)

    def epoch(k):
        batches = [captions(step) for step in range(k * steps, (k + 1) * steps)]
        return [tuple(t for t in row.tolist() if t != PAD) for b in batches for row in b[0]]

    wanted = sorted(tuple(encode(tokenizer, english)) for english, _ in TOY)
    assert sorted(epoch(0)) == sorted(epoch(1)) == wanted
    assert epoch(0) != epoch(1)
    again = Captions(TOY, tokenizer, 10, seed=1)(
        steps + 2
    )  # a resumed run asks for one step alone
    assert all(torch.equal(a, b) for a, b in zip(captions(steps + 2), again, strict=True))
    assert epoch(0) != [
        tuple(t for t in row.tolist() if t != PAD)
        for step in range(steps)
        for row in Captions(TOY, tokenizer, 10, seed=2)(step)[0]
    ]


def test_rows_of_similar_length_stand_together(tokenizer):
    pairs = [("a " * n, "b " * n) for n in range(1, 81)]
    captions = Captions(pairs, tokenizer, 8)
    assert all((captions(step)[2] == 0).float().mean() < 0.3 for step in range(1, 10))


def test_a_caption_comes_back_from_its_numbers_and_its_end_is_no_token_of_it(tokenizer):
    text = "The dog and the fish see a bird that eats ."
    ids = encode(tokenizer, text)
    assert ids[-1] == END and min(ids[:-1]) >= SPECIAL
    assert tokenizer.decode([i - SPECIAL for i in ids[:-1]]) == text


def test_it_learns_a_toy_language_and_reports_what_sacrebleu_says(toy):
    import sacrebleu

    config = dataclasses.replace(SHORT, steps=150, batch_size=32, warmup=30, evaluate_every=50)
    found = train_translator(config, **TINY)
    assert min(found["BLEU"].values()) > 95 and set(found["BLEU"]) == set(SEARCHES)
    assert found["pairs"] == len(toy["train"])
    assert [at for at, _ in found["validation"]] == [0, 50, 100, 150]
    assert found["validation"][-1][1] < 0.2 < found["validation"][0][1]
    english, told, german = zip(*found["examples"], strict=True)
    assert list(zip(english, german, strict=True)) == toy["test"][:5]
    assert sacrebleu.corpus_bleu(list(told), [list(german)]).score > 95
    untrained = train_translator(SHORT, **TINY)
    assert max(untrained["BLEU"].values()) < 60


def test_a_run_that_stopped_goes_on_to_the_same_end(toy, tmp_path, monkeypatch):
    whole = train_translator(SHORT, **TINY, folder=tmp_path / "whole")
    read = Captions.__call__

    def until_five(self, step):
        if step == 5 and len(self.rows) > 100:
            raise RuntimeError("stopped")
        return read(self, step)

    with monkeypatch.context() as during:
        during.setattr(Captions, "__call__", until_five)
        with pytest.raises(RuntimeError, match="stopped"):
            train_translator(SHORT, **TINY, folder=tmp_path / "cut")
    with pytest.raises(ValueError, match="resume it"):
        train_translator(SHORT, **TINY, folder=tmp_path / "cut")
    with pytest.raises(ValueError, match="other data"):
        train_translator(SHORT, **{**TINY, "dropout": 0.5}, folder=tmp_path / "cut", resume=True)
    rest = train_translator(SHORT, **TINY, folder=tmp_path / "cut", resume=True)
    assert rest["validation"][-1] == whole["validation"][-1] and rest["BLEU"] == whole["BLEU"]


def test_the_command_writes_the_record(toy, tmp_path, capsys):
    out = tmp_path / "record.json"
    argv = [
        "multi30k",
        "--steps",
        "4",
        "--batch-size",
        "16",
        "--pieces",
        "330",
        "--d-model",
        "32",
        "--layers",
        "1",
        "--limit",
        "30",
        "--folder",
        str(tmp_path / "run"),
        "--out",
        str(out),
    ]
    assert main(argv) == 0
    record = json.loads(out.read_text("utf-8"))
    assert record["pairs"] == 30 and record["_run"]["training"]["steps"] == 4
    assert record["_run"]["sizes"] == {"pieces": 330, "d_model": 32, "layers": 1, "dropout": 0.1}
    assert record["_run"]["command"].startswith("python -m llmbook record multi30k --steps 4 ")
    assert "recorded in" in capsys.readouterr().out
    assert main(argv) == 2 and "resume it, or name another folder" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(toy, tmp_path, monkeypatch, capsys):
    read = Captions.__call__

    def interrupted(self, step):
        if step == 2 and len(self.rows) == 30:
            signal.raise_signal(signal.SIGINT)
        return read(self, step)

    argv = [
        "multi30k",
        "--steps",
        "4",
        "--batch-size",
        "16",
        "--pieces",
        "330",
        "--d-model",
        "32",
        "--layers",
        "1",
        "--limit",
        "30",
        "--folder",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "record.json"),
    ]
    with monkeypatch.context() as during:
        during.setattr(Captions, "__call__", interrupted)
        assert main(argv) == 130
    assert not (tmp_path / "record.json").exists()
    assert capsys.readouterr().err.strip().endswith("--resume")
    assert main([*argv, "--resume"]) == 0 and (tmp_path / "record.json").is_file()


@pytest.mark.parametrize("lacking", ["captions", "sacrebleu"])
def test_what_is_missing_is_named_before_anything_is_trained(
    lacking, toy, tmp_path, monkeypatch, capsys
):
    def fail(split):
        raise DownloadFailed("multi30k.train.en.gz could not be fetched")

    if lacking == "captions":
        monkeypatch.setattr(subject, "multi30k", fail)
    else:
        monkeypatch.setitem(sys.modules, "sacrebleu", None)
    argv = ["--folder", str(tmp_path / "run"), "--out", str(tmp_path / "record.json")]
    assert main(["multi30k", *argv]) == 2
    assert {"captions": "multi30k.train.en.gz", "sacrebleu": "sacrebleu"}[
        lacking
    ] in capsys.readouterr().err
    assert not (tmp_path / "record.json").exists()


def test_a_gpu_gets_the_larger_run():
    assert run_for("cpu")[0] is CPU and run_for(torch.device("cuda", 0))[0] is GPU
    assert GPU.steps * GPU.batch_size > CPU.steps * CPU.batch_size


# --- what was recorded


def test_the_record_is_of_the_whole_set_by_the_command_without_options():
    record = json.loads(OUT.read_text("utf-8"))
    assert record["pairs"] == 29_000 and set(record["BLEU"]) == set(SEARCHES)
    told = record["_run"]
    assert told["command"].split(" --device")[0] == "python -m llmbook.training.multi30k"
    assert re.fullmatch("[0-9a-f]{40}", told["commit"])  # nothing differed from it
    assert all(told[name] for name in ("hardware", "versions", "threads", "date", "seconds"))
    losses = [nats for _, nats in record["validation"]]
    assert (
        losses[-1] < 0.5 * losses[0] and record["validation"][-1][0] == told["training"]["steps"]
    )


def test_the_recorded_examples_are_near_what_people_wrote():
    import sacrebleu

    record = json.loads(OUT.read_text("utf-8"))
    _, told, human = zip(*record["examples"], strict=True)
    assert sacrebleu.corpus_bleu(list(told), [list(human)]).score > 10
    assert sacrebleu.corpus_bleu(list(told), [list(human[1:] + human[:1])]).score < 5
