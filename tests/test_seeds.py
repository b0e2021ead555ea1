"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib

import numpy as np
import pytest
import torch

from llmbook.seeds import as_generator, generator, number


def test_a_seed_is_the_first_56_bits_of_the_sha256_of_what_it_is_for():
    digest = hashlib.sha256(b"3/order/17").hexdigest()
    assert number(3, "order", 17) == int(digest[:14], 16)
    assert number(0) == int(hashlib.sha256(b"0").hexdigest()[:14], 16)
    drawn = torch.rand(5, generator=generator(3, "order", 17))
    again = torch.Generator().manual_seed(int(digest[:14], 16))
    assert torch.equal(drawn, torch.rand(5, generator=again))


def test_seeds_steps_and_names_do_not_share_their_draws():
    asked = [(s, name, step) for s in range(6) for name in ("a", "b") for step in range(1200)]
    assert len({number(*what) for what in asked}) == len(asked)
    assert number(0, 1000) != number(1, 0)
    assert number(1, 23) != number(12, 3) and number(1, -2) != number(1, 2)


def test_any_whole_number_may_be_a_seed():
    assert number(np.int64(3), np.int32(4)) == number(3, 4)


@pytest.mark.parametrize("bad", [-1, 1.0, True, "0", None])
def test_a_bad_seed_is_refused_by_name(bad):
    with pytest.raises((TypeError, ValueError), match="^seed must be a whole number"):
        generator(bad)


@pytest.mark.parametrize("bad", ["a/b", "", "12", "-3"])
def test_a_name_that_could_be_read_otherwise_is_refused(bad):
    with pytest.raises(ValueError, match="^what must be names without a slash, or numbers"):
        number(0, bad)


@pytest.mark.parametrize("bad", [1.5, None, True, (1, 2)])
def test_what_is_no_name_and_no_number_is_a_type_error(bad):
    with pytest.raises(TypeError, match="^what must be a whole number"):
        number(0, bad)


def test_a_plain_seed_draws_the_same_and_a_generator_moves_on():
    first, second = (torch.rand(3, generator=as_generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    own = torch.Generator().manual_seed(5)
    assert as_generator(own) is own
    assert as_generator(np.int64(5)).initial_seed() == 5


@pytest.mark.parametrize("bad", [None, 1.0, True, "5"])
def test_what_is_no_generator_is_refused(bad):
    with pytest.raises(TypeError, match="^generator must be a seed"):
        as_generator(bad)
