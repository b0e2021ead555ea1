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


# Three answers to one prompt, one to another, one to the first again; and a row of padding alone.
ANSWERS = [[7, 8, 1, 2], [7, 8, 3, 4], [7, 8, 5], [6, 8, 1, 2, 3], [7, 8, 1], []]


def padded(left):
    """input_ids, attention_mask and prompts, the first two tokens: (6, 5)."""
    ids, kept, prompts = (torch.zeros(6, 5, dtype=torch.int64) for _ in range(3))
    for row, text in enumerate(ANSWERS):
        first = 5 - len(text) if left else 0
        ids[row, first : first + len(text)] = torch.tensor(text, dtype=torch.int64)
        kept[row, first : first + len(text)] = 1
        prompts[row, first : min(first + 2, 5)] = 1
    return ids, kept.bool(), prompts.bool()


@pytest.mark.parametrize("left", [False, True])
def test_a_prompt_that_rows_side_by_side_share_is_read_once(left):
    ids, kept, prompts = padded(left)
    texts = Texts.of_answers(ids, kept, prompts)
    assert texts.shared  # padded on the left, texts of unlike lengths begin at unlike places
    assert texts.kept.sum(-1).tolist() == [4, 2, 3 if left else 1, 5, 3, 0]
    tokens = ids[texts.kept].double().view(1, 1, -1, 1)
    parts = texts.apart(tokens)
    assert torch.equal(texts.together(parts), tokens)
    found = [row for part in parts for row in part[:, 0, :, 0].tolist()]
    assert len(found) == 5
    for text in ANSWERS[:5]:
        assert any(row[: len(text)] == text for row in found)
    assert len(texts.positions) == texts.kept.sum()
    assert texts.positions[:6].tolist() == [0, 1, 2, 3, 2, 3]


def test_a_shared_token_gets_the_gradients_of_every_text():
    ids = torch.tensor([[7, 8, 1], [7, 8, 3], [7, 8, 5], [6, 8, 1]])
    texts = Texts.of_answers(ids, torch.ones(4, 3), torch.tensor([True, True, False]).expand(4, 3))
    x = torch.randn(1, 2, 8, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: [part**2 for part in texts.apart(x)], x)
    torch.autograd.backward(*zip(*((p, torch.ones_like(p)) for p in texts.apart(x)), strict=True))
    assert x.grad[0, 0, :, 0].tolist() == [3, 3, 1, 1, 1, 1, 1, 1]


def test_rows_that_share_nothing_are_texts_as_they_stand():
    kept = torch.ones(2, 4, dtype=torch.bool)
    ids = torch.tensor([[1, 2, 3, 4], [1, 5, 3, 4]])
    texts = Texts.of_answers(ids, kept, torch.arange(4).expand(2, 4) < 2)
    assert not texts.shared and texts.kept.all() and texts.longest == [4]
    with pytest.raises(ValueError, match="attention_mask must be True at one token at least"):
        Texts.of_answers(ids, ~kept, kept)


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
