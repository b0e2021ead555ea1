"""Packing and windows: nothing leaks or is lost; a step's batch depends on its number alone."""

from collections import Counter

import pytest
import torch

from llmbook.data import documentation, packing, split_of
from llmbook.data.packing import Windows, pack
from llmbook.seeds import generator
from llmbook.training import DataConfig
from llmbook.training.text import read_text


def positions(windows, step, batch_size, rank=0, world=1):
    """On a stream that counts 0, 1, 2 …: the positions of a batch's targets."""
    inputs, targets = windows.batch(step, batch_size, rank, world)
    assert torch.equal(inputs + 1, targets) and inputs.dtype == targets.dtype == torch.int64
    return targets.flatten().tolist()


def test_documents_are_packed_with_an_end_between_before_and_after():
    stream = pack([[1, 2], [], [3]], end_of_text=9)
    assert stream.tolist() == [9, 1, 2, 9, 9, 3, 9] and stream.dtype == torch.int32
    assert pack([[1, 2], [3]]).tolist() == [1, 2, 3]


@pytest.mark.parametrize("tokens, length", [(20, 10), (101, 7), (1000, 9), (64, 1)])
def test_an_epoch_sees_each_window_once_and_predicts_no_token_twice(tokens, length):
    windows = Windows(torch.arange(tokens), length, seed=3)
    for epoch in range(3):
        seen = Counter()
        for i in range(len(windows)):
            seen.update(positions(windows, epoch * len(windows) + i, 1))
        assert set(seen.values()) == {1}
        assert len(seen) == len(windows) * length > tokens - 2 * length


def test_batches_that_cross_an_epochs_end_lose_and_repeat_nothing():
    windows = Windows(torch.arange(100), 8, seed=0)
    n = len(windows)
    assert n == 11
    seen = [p for step in range(n) for p in positions(windows, step, 4)]  # four epochs
    for epoch in range(4):
        part = seen[epoch * n * 8 : (epoch + 1) * n * 8]
        assert len(set(part)) == n * 8
    assert len(positions(windows, 0, 3 * n)) == 3 * n * 8  # a batch larger than two epochs


def test_epochs_differ_in_order_and_in_where_they_cut():
    windows = Windows(torch.arange(1000), 10, seed=0)
    first, second = windows.starts(0), windows.starts(1)
    assert first.tolist() != sorted(first.tolist()) and len(set((first % 10).tolist())) == 1
    assert (first % 10)[0] != (second % 10)[0]
    assert sorted((first // 10).tolist()) == sorted((second // 10).tolist())
    assert (first // 10).tolist() != (second // 10).tolist()
    assert Windows(torch.arange(1000), 10, seed=1).starts(0).tolist() != first.tolist()


def test_each_epoch_is_drawn_once_while_batches_go_on_and_only_neighbours_are_kept(monkeypatch):
    drawn = []

    def counting(seed, epoch):
        drawn.append(epoch)
        return generator(seed, epoch)

    monkeypatch.setattr(packing, "generator", counting)
    windows = Windows(torch.arange(100), 8, seed=0)  # 11 windows: batches of 4 cross the end
    for step in range(22):  # eight epochs
        windows.batch(step, 4)
        assert len(windows._epochs) <= 2
    assert drawn == list(range(8))
    windows.batch(21, 4), windows.batch(2, 4), windows.batch(2, 4)  # a step back, and far back
    assert drawn == [*range(8), 0, 1] and set(windows._epochs) == {0, 1}


def test_a_stream_s_order_is_that_of_the_seed_on_every_machine():
    order = [64, 0, 16, 8, 48, 24, 40, 80, 32, 72, 56]
    assert Windows(torch.arange(100), 8, seed=3).starts(2).tolist() == order


def test_a_batch_depends_on_the_steps_number_alone():
    a, b = (Windows(torch.arange(500), 6, seed=7) for _ in range(2))
    forward = [positions(a, step, 5) for step in range(60)]
    backward = [positions(b, step, 5) for step in reversed(range(60))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_the_batch_that_one_would_read(world):
    windows = Windows(torch.arange(300), 5, seed=2)
    for step in (0, 9, 31):
        parts = [positions(windows, step, 6, rank, world) for rank in range(world)]
        assert sum(parts, []) == positions(windows, step, 6)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: Windows([1, 2, 3], 1), TypeError),
        (lambda: Windows(torch.ones(9), 2), TypeError),
        (lambda: Windows(torch.ones(9, 1).int(), 2), ValueError),
        (lambda: Windows(torch.arange(9), 5), ValueError),
        (lambda: Windows(torch.arange(9), 0), ValueError),
        (lambda: Windows(torch.arange(9), 2).batch(0, 3, world=2), ValueError),
        (lambda: Windows(torch.arange(9), 2).batch(0, 4, rank=2, world=2), ValueError),
        (lambda: Windows(torch.arange(9), 2).batch(-1, 2), ValueError),
        (lambda: Windows(torch.arange(9), 2).samples(0, 0), ValueError),
        (lambda: Windows(torch.arange(9), 2).samples(0, 1.0), TypeError),
        (lambda: Windows(torch.arange(9), 2, seed=-1), ValueError),
    ],
)
def test_unfit_arguments_are_refused(call, error):
    with pytest.raises(error):
        call()


# --- from text to tokens


@pytest.fixture(scope="module")
def documents():
    return read_text(DataConfig(size="quick", vocab_size=300))


def test_no_validation_document_is_in_the_training_stream(documents):
    """Decoded and cut at the ends of texts, a stream holds its side's documents and no other."""
    sides = {}
    for side, ids in (("train", documents.train), ("validation", documents.validation)):
        edges = (ids == documents.end_of_text).nonzero().flatten().tolist()
        assert edges[0] == 0 and edges[-1] == len(ids) - 1
        corpus = documentation(side, "quick")
        assert len(edges) == len(corpus) + 1
        picked = range(0, len(corpus), 37)
        for i in picked:
            document = ids[edges[i] + 1 : edges[i + 1]].tolist()
            assert documents.tokenizer.decode(document) == corpus[i].text
        sides[side] = {d.name for d in corpus}
        assert all(split_of(d.name) == side for d in corpus)
    assert not sides["train"] & sides["validation"]


def test_the_tokenizer_is_learned_from_the_training_side_alone(documents):
    from llmbook.tokenization import BPETokenizer

    texts = [d.text for d in documentation("train", "quick")]
    assert documents.tokenizer.merges == BPETokenizer.train_fast(texts, 300).merges


def test_bits_per_byte_are_the_same_information_in_another_unit(documents):
    nats = 2.0
    total_bits = nats * (len(documents.validation) - 1) / torch.log(torch.tensor(2.0)).item()
    size = sum(len(d.text.encode()) for d in documentation("validation", "quick"))
    assert documents.bits_per_byte(nats) == pytest.approx(total_bits / size)


def test_a_text_file_is_cut_once_and_its_last_tenth_is_validation(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("abcdefghij" * 30, encoding="utf-8")
    text = read_text(DataConfig(source=str(file), tokenizer="characters"))
    assert len(text.train) == 270 and len(text.validation) == 30 and text.vocab_size == 10
    assert text.end_of_text is None
    assert text.tokenizer.decode(text.validation.tolist()) == "abcdefghij" * 3


def test_a_fingerprint_changes_with_the_text_of_either_side(tmp_path):
    prints, config = [], DataConfig(source=str(tmp_path / "a.txt"), tokenizer="characters")
    texts = ("abab" * 20, "abab" * 19 + "abba", "abba" + "abab" * 19, "abab" * 20)
    for content in texts:
        (tmp_path / "a.txt").write_text(content, encoding="utf-8")
        prints.append(read_text(config).fingerprint)
    assert prints[0] == prints[3] and len(set(prints)) == 3


def test_a_tokenizer_in_a_file_is_used_as_it_is(tmp_path, documents):
    documents.tokenizer.save(tmp_path)
    (tmp_path / "a.txt").write_text("def f(x): return x\n" * 20, encoding="utf-8")
    text = read_text(DataConfig(source=str(tmp_path / "a.txt"), tokenizer=str(tmp_path)))
    assert text.tokenizer.merges == documents.tokenizer.merges
    assert text.tokenizer.decode(text.train[:40].tolist()).startswith("def f(x)")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": "nowhere.txt"}, "got 'nowhere.txt'"),
        ({"tokenizer": "words"}, "got 'words'"),
        ({"size": "huge"}, "got 'huge'"),
        ({"vocab_size": 1}, "vocab_size must be"),
        ({"source": ""}, "source must be"),
    ],
)
def test_unknown_data_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_text(DataConfig(**change))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_text(DataConfig(source=str(tmp_path / "a.txt")))
    (tmp_path / "a.txt").write_text("ab")
    with pytest.raises(ValueError, match="too little text"):
        read_text(DataConfig(source=str(tmp_path / "a.txt"), tokenizer="characters"))
