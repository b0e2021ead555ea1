"""Work shared among threads: each piece once, none for less than waking a thread costs."""

import threading

import pytest
import torch

from llmbook.native import in_shares, one_thread, shares_of


@pytest.fixture
def four():
    torch.set_num_threads(4)


def test_small_work_is_not_shared(four):
    assert shares_of(8) == 4 and shares_of(3) == 3 and shares_of(0) == 1
    assert [shares_of(8, ms) for ms in (0.1, 11, 13, 19, 1000)] == [1, 1, 2, 3, 4]
    assert shares_of(1, 1000) == 1


def test_each_piece_is_done_once_and_the_caller_takes_a_share(four):
    done, threads = [], set()

    def run(first, end, share):
        done.extend(range(first, end))
        threads.add((share, threading.current_thread() is threading.main_thread()))

    in_shares(run, 10)
    assert sorted(done) == list(range(10))
    assert {main for share, main in threads if share == 0} == {True}
    assert {main for share, main in threads if share} == {False}


@pytest.mark.parametrize("broken", [0, 2])
def test_an_error_in_any_share_reaches_the_caller(four, broken):
    def run(first, end, share):
        if share == broken:
            raise MemoryError(f"share {share}")

    with pytest.raises(MemoryError, match=f"share {broken}"):
        in_shares(run, 8)


def test_one_thread_is_for_the_block_alone(four):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 4
