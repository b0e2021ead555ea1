"""Texts of unequal lengths in one row: apart and together again, and nothing of one in another."""

import pytest
import torch

from llmbook.models.gpt import GPT, GPTConfig
from llmbook.multihead import MultiHeadAttention
from llmbook.ragged import Texts

ROWS = torch.tensor(
    [
        [1, 1, 1, 2, 3, 3, 3, 3, 3, 0],
        [1, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [0, 1, 1, 0, 0, 2, 2, 2, 2, 0],
    ]
)
LENGTHS = [3, 1, 5, 1, 9, 2, 4]


def marked(texts, heads=2, d=3):
    T = sum(LENGTHS)
    return torch.arange(T * heads * d, dtype=torch.float64).view(1, T, heads, d).transpose(1, 2)


def test_positions_count_from_each_text_s_beginning_and_padding_is_left_out():
    texts = Texts(ROWS)
    assert texts.positions.tolist() == [i for n in LENGTHS for i in range(n)]
    assert torch.equal(texts.kept, ROWS > 0)


def test_a_group_holds_texts_of_like_length_and_less_than_half_is_padding():
    texts = Texts(ROWS)
    sizes = [tuple(part.shape) for part in texts.apart(marked(texts))]
    assert sizes == [(2, 2, 1, 3), (1, 2, 2, 3), (2, 2, 4, 3), (1, 2, 5, 3), (1, 2, 9, 3)]


def test_together_undoes_apart_and_every_text_is_a_row_of_its_group():
    texts = Texts(ROWS)
    x = marked(texts)
    parts = texts.apart(x)
    assert torch.equal(texts.together(parts), x)
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    for n, end in zip(LENGTHS, ends, strict=True):
        own = x[:, :, end - n : end]
        assert any(torch.equal(row[:, :n], own[0]) for part in parts for row in part)


def test_gradients_are_those_of_indexing_and_none_comes_from_padding():
    texts = Texts(ROWS)
    x = marked(texts).clone().requires_grad_(True)
    torch.autograd.gradcheck(lambda x: texts.together([p**2 for p in texts.apart(x)]), x)
    texts.together([torch.full_like(p, 2.0) * p for p in texts.apart(x)]).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


@pytest.mark.parametrize("documents", [torch.ones(1, 1), torch.ones(2, 7), torch.eye(4)])
def test_one_text_texts_of_one_length_and_single_tokens_are_texts_too(documents):
    texts = Texts(documents.long())
    x = torch.randn(1, 1, int(documents.sum()), 2)
    assert torch.equal(texts.together(texts.apart(x)), x)


def test_what_does_not_go_with_texts_is_refused():
    attend, x = MultiHeadAttention(16, 2), torch.randn(1, 5, 16)
    texts = Texts(torch.tensor([[1, 1, 2, 2, 2]]))
    with pytest.raises(ValueError, match="texts need causal=True"):
        attend(x, texts=texts)
    with pytest.raises(ValueError, match="without context, bias and cache"):
        attend(x, x, causal=True, texts=texts)
    assert attend(x, causal=True, texts=texts).shape == x.shape
    with pytest.raises(ValueError, match="at least one token: got 0 everywhere"):
        Texts(torch.zeros(2, 3, dtype=torch.int64))


def test_wanted_places_are_checked():
    model = GPT(GPTConfig(64, 16, 32, 2, 4)).eval()
    ids, documents = torch.ones(1, 4, dtype=torch.int64), torch.tensor([[1, 1, 0, 0]])
    with pytest.raises(TypeError, match="wanted must be .*bool"):
        model(ids, wanted=torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="wanted must be False at padding"):
        model(ids, documents=documents, wanted=torch.ones(1, 4, dtype=torch.bool))
