"""Packing and windows for any documents and sizes: nothing is lost and nothing comes twice."""

import torch
from helpers.properties import settings
from hypothesis import given
from hypothesis import strategies as st

from llmbook.data.packing import Windows, pack, pad

IDS = st.lists(st.integers(0, 9), max_size=8)


@settings()
@given(st.lists(IDS, max_size=6), st.one_of(st.none(), st.just(99)))
def test_a_stream_is_its_documents_with_marks_around_them(documents, mark):
    stream = pack(documents, mark).tolist()
    expected = [] if mark is None else [mark]
    for document in documents:
        expected += [*document, *([] if mark is None else [mark])]
    assert stream == expected


@settings()
@given(st.lists(IDS.filter(len), min_size=1, max_size=5), st.sampled_from([0, -100]))
def test_padding_stands_behind_the_rows_and_the_mask_says_where(rows, value):
    ids, mask = pad(rows, value)
    for row, there, counts in zip(rows, ids.tolist(), mask.tolist(), strict=True):
        assert there[: len(row)] == row and set(there[len(row) :]) <= {value}
        assert counts == [1] * len(row) + [0] * (len(there) - len(row))


@settings()
@given(st.integers(1, 7), st.integers(0, 40), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_predicts_every_token_at_most_once_and_nearly_all(length, more, seed, epoch):
    stream = torch.arange(2 * length + more)
    windows = Windows(stream, length, seed)
    starts = windows.starts(epoch)
    assert len(starts) == len(windows)
    targets = (starts[:, None] + torch.arange(1, length + 1)).flatten().tolist()
    assert len(set(targets)) == len(targets) and max(targets) < len(stream)
    assert len(stream) - len(targets) < 2 * length + 1


@settings()
@given(st.integers(1, 5), st.integers(0, 30), st.integers(0, 20), st.sampled_from([1, 2, 3]))
def test_processes_share_a_step_s_batch_whatever_their_number(length, more, step, world):
    windows = Windows(torch.arange(2 * length + more), length, seed=1)
    whole = windows.batch(step, 6)
    parts = [windows.batch(step, 6, rank, world) for rank in range(world)]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
    assert torch.equal(whole[0][:, 1:], whole[1][:, :-1])
