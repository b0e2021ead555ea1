"""One wording and one rule of exceptions for bad input."""

import math
import re

import numpy as np
import pytest
import torch

from llmbook import checks

WRONG_TYPES = [True, False, "8", 8.0, None, [8], torch.tensor(8), np.float64(8), 1j]


def says(message):
    return "^" + re.escape(message) + "$"


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.int32(1), np.uint8(3)])
def test_any_whole_number_is_accepted_and_comes_back_as_an_int(value):
    out = checks.whole("n", value, least=1)
    assert type(out) is int and out == value


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
def test_a_whole_number_of_another_type_is_a_type_error(value):
    with pytest.raises(TypeError, match=says(f"n must be a whole number: got {value!r}")):
        checks.whole("n", value)


@pytest.mark.parametrize(
    "value, bounds, expected",
    [
        (0, dict(least=1), "n must be a whole number of at least 1: got 0"),
        (-5, dict(least=-4), "n must be a whole number of at least -4: got -5"),
        (9, dict(most=8), "n must be a whole number of at most 8: got 9"),
        (9, dict(least=2, most=8), "n must be a whole number from 2 to 8: got 9"),
        (1, dict(least=2, most=8), "n must be a whole number from 2 to 8: got 1"),
        (-1, dict(least=0), "n must be a whole number of at least 0: got -1"),
        (1, dict(most=0), "n must be a whole number of at most 0: got 1"),
    ],
)
def test_a_whole_number_out_of_range_is_a_value_error(value, bounds, expected):
    with pytest.raises(ValueError, match=says(expected)):
        checks.whole("n", value, **bounds)


def test_both_ends_of_a_range_belong_to_it():
    assert [checks.whole("n", n, least=2, most=4) for n in (2, 3, 4)] == [2, 3, 4]


def test_several_whole_numbers_are_named_in_the_error():
    checks.wholes(1, batch=1, length=2)
    with pytest.raises(ValueError, match=says("b must be a whole number of at least 1: got 0")):
        checks.wholes(1, a=1, b=0)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1)])
def test_a_number_within_its_bounds_comes_back_as_it_was(value):
    assert checks.number("x", value, above=0, most=1) is value


@pytest.mark.parametrize(
    "value, bounds, words",
    [
        (0, dict(above=0), "above 0"),
        (1, dict(below=1), "below 1"),
        (-0.1, dict(least=0), "at least 0"),
        (1.1, dict(most=1), "at most 1"),
        (2, dict(least=0, below=2), "at least 0 and below 2"),
        (0, dict(above=0, most=1), "above 0 and at most 1"),
        (3, dict(least=0, most=1), "from 0 to 1"),
        (math.inf, dict(above=0), "above 0"),
        (math.nan, dict(above=0), "above 0"),
        (math.nan, dict(least=0, below=1), "at least 0 and below 1"),
    ],
)
def test_a_number_out_of_its_bounds_is_a_value_error(value, bounds, words):
    with pytest.raises(ValueError, match=says(f"x must be a number {words}: got {value}")):
        checks.number("x", value, **bounds)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_a_number_without_bounds_is_finite(value):
    with pytest.raises(ValueError, match=says(f"x must be a number: got {value}")):
        checks.number("x", value)


@pytest.mark.parametrize("value", ["0.5", None, True, 1j, torch.tensor(0.5)], ids=repr)
def test_a_number_of_another_type_is_a_type_error(value):
    with pytest.raises(TypeError, match="^x must be a number at least 0: got"):
        checks.number("x", value, least=0)


def test_zero_is_not_positive():
    assert checks.positive("lr", 1e-9) == 1e-9
    with pytest.raises(ValueError, match=says("lr must be a number above 0: got 0")):
        checks.positive("lr", 0)


def test_a_share_goes_from_0_to_1_with_the_ends_that_are_wanted():
    assert [checks.share("p", p) for p in (0, 0.5, 1)] == [0, 0.5, 1]
    assert checks.share("p", 0.0, one=False) == 0.0 and checks.share("p", 1.0, zero=False) == 1.0
    for bad, ends in [(-0.01, {}), (1.01, {}), (1, dict(one=False)), (0, dict(zero=False))]:
        with pytest.raises(ValueError, match="^p must be a number"):
            checks.share("p", bad, **ends)


def test_a_flag_is_true_or_false():
    assert checks.flag("causal", True) is True and checks.flag("causal", False) is False
    for bad in (1, 0, None, "yes", np.bool_(True)):
        with pytest.raises(TypeError, match="^causal must be True or False: got"):
            checks.flag("causal", bad)


def test_an_unknown_name_is_told_all_the_known_ones_with_commas_whatever_holds_them():
    for choices in (("a", "b", "c"), ["a", "b", "c"], {"a": 1, "b": 2, "c": 3}):
        assert checks.one_of("backend", "b", choices) == "b"
        with pytest.raises(ValueError, match=says("backend must be one of a, b, c: got 'x'")):
            checks.one_of("backend", "x", choices)


@pytest.mark.parametrize("value", [3, None, ["a"], torch.float32], ids=repr)
def test_a_name_of_another_type_is_a_type_error(value):
    with pytest.raises(TypeError, match="^backend must be one of a, b: got"):
        checks.one_of("backend", value, ("a", "b"))


def test_a_choice_of_whole_numbers_takes_any_whole_number_and_no_truth_value():
    assert type(checks.one_of("width", np.int64(2), (1, 2, 4))) is int
    with pytest.raises(ValueError, match=says("width must be one of 1, 2, 4: got 3")):
        checks.one_of("width", 3, (1, 2, 4))
    for bad in (True, "2", 2.0):
        with pytest.raises(TypeError, match="^width must be one of 1, 2, 4: got"):
            checks.one_of("width", bad, (1, 2, 4))


def test_a_choice_may_be_none_where_none_is_among_them():
    assert checks.one_of("scaling", None, (None, "linear")) is None


def test_what_does_not_divide_is_refused_with_both_numbers():
    assert checks.divides("n_heads", 4, "d_model", 12) == 4
    message = "n_heads must divide d_model: got d_model=768, n_heads=10"
    with pytest.raises(ValueError, match=says(message)):
        checks.divides("n_heads", 10, "d_model", 768)
    with pytest.raises(ValueError, match=says("groups must divide heads: got heads=4, groups=0")):
        checks.divides("groups", 0, "heads", 4)


# --- tensors


def test_a_tensor_with_the_axes_is_returned():
    x = torch.zeros(2, 3, 4)
    assert checks.tensor("x", x, "batch tokens d_model", torch.float32, d_model=4) is x
    assert checks.tensor("x", x, "... d_model") is x
    assert checks.tensor("x", x[0, 0], "... d_model") is not None
    assert checks.tensor("x", x, "batch tokens d_model", (torch.float64, torch.float32)) is x


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), ()])
def test_another_number_of_axes_is_a_value_error(shape):
    got = f"float32 {shape}"
    with pytest.raises(ValueError, match=says(f"x must be (batch, tokens, d_model): got {got}")):
        checks.tensor("x", torch.zeros(shape), "batch tokens d_model")


def test_another_size_of_an_axis_is_a_value_error_that_names_the_axis():
    message = "x must be float32 (batch, tokens=5): got float32 (2, 3)"
    with pytest.raises(ValueError, match=says(message)):
        checks.tensor("x", torch.zeros(2, 3), "batch tokens", torch.float32, tokens=5)
    with pytest.raises(ValueError, match=re.escape("(..., d_model=5): got float32 (2, 3)")):
        checks.tensor("x", torch.zeros(2, 3), "... d_model", d_model=5)
    with pytest.raises(ValueError, match=re.escape("(..., d_model): got float32 ()")):
        checks.tensor("x", torch.zeros(()), "... d_model")


def test_another_dtype_or_no_tensor_is_a_type_error():
    message = "x must be int64 or bool (batch, tokens): got float32 (2, 3)"
    with pytest.raises(TypeError, match=says(message)):
        checks.tensor("x", torch.zeros(2, 3), "batch tokens", (torch.int64, torch.bool))
    with pytest.raises(TypeError, match=says("x must be a tensor, int64 (batch,): got list")):
        checks.tensor("x", [1], "batch", torch.int64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_is_float(dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    assert checks.tensor("x", x, "batch tokens", float) is x


def test_what_is_not_floating_point_is_a_type_error():
    message = "x must be floating point (batch, tokens=5): got int64 (2, 3)"
    with pytest.raises(TypeError, match=says(message)):
        checks.tensor("x", torch.zeros(2, 3).long(), "batch tokens", float, tokens=5)
    with pytest.raises(TypeError, match=says("x must be a tensor, floating point (n,): got list")):
        checks.tensor("x", [1.0], "n", float)


def test_sizes_of_other_axes_have_no_part():
    x = torch.zeros(2, 3)
    assert checks.tensor("x", x, "batch tokens", batch=2, heads=7) is x


def test_a_tensor_elsewhere_is_a_value_error_and_none_is_nowhere():
    x = torch.zeros(2)
    checks.on_device("q", x.device, k=x, bias=None)
    with pytest.raises(ValueError, match=says("k must be on q's device cpu: got meta")):
        checks.on_device("q", x.device, bias=None, k=x.to("meta"))


# --- token ids


def test_token_ids_at_both_edges_of_the_vocabulary_are_accepted():
    ids = torch.tensor([[0, 4], [2, 3]])
    assert checks.token_ids("input_ids", ids, vocab_size=5, max_len=2) is ids
    assert checks.token_ids("input_ids", ids[0], vocab_size=5, axes="tokens").shape == (2,)


@pytest.mark.parametrize("bad", [-1, 5, 400])
def test_a_token_id_out_of_the_vocabulary_is_refused_with_the_id_and_its_place(bad):
    ids = torch.tensor([[1, bad, 2]])
    message = f"input_ids must be from 0 to vocab_size − 1 = 4: got {bad} at (0, 1)"
    with pytest.raises(ValueError, match=says(message)):
        checks.token_ids("input_ids", ids, vocab_size=5)


def test_the_ignored_id_is_accepted_and_no_other_negative_one():
    ids = torch.tensor([[-100, 1]])
    checks.token_ids("targets", ids, vocab_size=5, ignored=-100)
    checks.token_ids("targets", torch.full((2, 2), -100), vocab_size=5, ignored=-100)
    with pytest.raises(ValueError, match=r"got -1 at \(0, 0\)$"):
        checks.token_ids("targets", ids.clamp(min=-1), vocab_size=5, ignored=-100)
    with pytest.raises(ValueError, match=r"got -100 at \(0, 0\)$"):
        checks.token_ids("targets", ids, vocab_size=5)


def test_too_many_tokens_are_refused_and_none_are_not():
    checks.token_ids("ids", torch.zeros(2, 0, dtype=torch.int64), vocab_size=5, max_len=3)
    with pytest.raises(ValueError, match=says("ids must have at most max_len=3 tokens: got 4")):
        checks.token_ids("ids", torch.zeros(1, 4, dtype=torch.int64), max_len=3)


def test_ids_of_another_dtype_or_no_tensor_are_a_type_error():
    for bad in (torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int32), [[1, 2]], None):
        with pytest.raises(TypeError, match=re.escape("int64 (batch, tokens)")):
            checks.token_ids("ids", bad)
    with pytest.raises(ValueError, match=re.escape("ids must be int64 (batch, tokens)")):
        checks.token_ids("ids", torch.zeros(2, dtype=torch.int64))


def test_a_text_has_a_character():
    assert checks.text("prompt", "a") == "a"
    with pytest.raises(
        ValueError, match="^prompt must be a text of at least 1 character: got ''$"
    ):
        checks.text("prompt", "")
    with pytest.raises(TypeError, match="^prompt must be a text of at least 1 character: got 3$"):
        checks.text("prompt", 3)


@pytest.mark.parametrize(
    "bounds, bad, words",
    [
        (dict(least=2, most=4), "a", "a text from 2 to 4 characters"),
        (dict(least=2, most=4), "abcde", "a text from 2 to 4 characters"),
        (dict(least=0, most=4), "abcde", "a text of at most 4 characters"),
        (dict(most=4), "", "a text from 1 to 4 characters"),
    ],
)
def test_a_text_has_the_length_that_is_asked_for(bounds, bad, words):
    assert checks.text("text", "abcd", **bounds) == "abcd"
    with pytest.raises(ValueError, match=says(f"text must be {words}: got {bad!r}")):
        checks.text("text", bad, **bounds)
    with pytest.raises(TypeError, match=says(f"text must be {words}: got None")):
        checks.text("text", None, **bounds)


def test_a_text_of_any_length_may_be_empty():
    assert checks.text("text", "", least=0) == ""
    with pytest.raises(TypeError, match=says("text must be a text: got 3")):
        checks.text("text", 3, least=0)
