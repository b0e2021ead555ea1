"""Speculative decoding: the model's own distribution, whatever the draft guesses."""

import copy
import itertools
import json

import pytest
import torch
from helpers.decoding_subject import Table, chi_squared, sharpened

from llmbook.decoding import generate
from llmbook.decoding.speculative import acceptance, residual, speculate
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.transformer import Transformer, TransformerConfig

PROMPT = torch.tensor([[0]])


def gpt(seed, n_layers=2, vocab_size=17, max_len=60):
    torch.manual_seed(seed)
    return sharpened(GPT(GPTConfig(vocab_size, max_len, 24, n_layers, 3)))


def table(seed, vocab=4, zeros=()):
    rows = torch.rand(vocab, vocab, generator=torch.Generator().manual_seed(seed)).double() + 0.05
    rows[:, list(zeros)] = 0
    return Table(rows / rows.sum(-1, keepdim=True))


def test_accept_or_replace_gives_exactly_the_model_s_distribution():
    g = torch.Generator().manual_seed(0)
    for zeros_p, zeros_q in (
        ((), ()),
        ((1, 4), ()),
        ((), (0, 2)),
        ((1, 3), (0, 2, 4)),
        ((0,), (0,)),
    ):
        p, q = torch.rand(2, 5, generator=g).double()
        p[list(zeros_p)], q[list(zeros_q)] = 0, 0
        p, q = p / p.sum(), q / q.sum()
        a, r = acceptance(p, q), residual(p, q)
        # over every guess: it stands, or one of the residual comes in its place
        out = sum(q[x] * (a[x] * torch.eye(5).double()[x] + (1 - a[x]) * r) for x in range(5))
        torch.testing.assert_close(out, p, atol=1e-15, rtol=1e-12)
    assert acceptance(p, p).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]  # p[0] is 0
    assert torch.equal(residual(p, p), p)


DRAFTS = {
    "never": lambda: (table(1, zeros=(2, 3)), table(2, zeros=(0, 1))),
    "always": lambda: (table(1), table(1)),
    "sometimes": lambda: (table(1), table(5)),
}


@pytest.mark.parametrize("kind", DRAFTS)
def test_texts_come_as_often_as_the_model_would_write_them(kind):
    model, draft = DRAFTS[kind]()
    p, dice, runs = model.table.exp(), torch.Generator().manual_seed(3), 1500
    counts, accepted, guessed = {}, 0, 0
    for _ in range(runs):
        got = speculate(
            model, draft, PROMPT, max_new_tokens=3, guesses=2, temperature=1.0, seed=dice
        )
        text = tuple(got.tokens[0, 1:].tolist())
        counts[text] = counts.get(text, 0) + 1
        accepted, guessed = accepted + got.accepted, guessed + got.guessed
    texts = list(itertools.product(range(4), repeat=3))
    want = [(p[0, a] * p[a, b] * p[b, c]).item() for a, b, c in texts]
    assert chi_squared([counts.get(t, 0) for t in texts], want) > 1e-6
    other = draft.table.exp()
    if kind == "sometimes":  # and not as often as the draft would
        its = [(other[0, a] * other[a, b] * other[b, c]).item() for a, b, c in texts]
        assert chi_squared([counts.get(t, 0) for t in texts], its) < 1e-6
        assert 0.3 < accepted / guessed < 0.95
    else:
        assert accepted == {"never": 0, "always": guessed}[kind]


@pytest.mark.parametrize("guesses", [1, 3, 5])
@pytest.mark.parametrize("draft", [0, 7])
def test_greedy_is_the_model_s_greedy_text(guesses, draft):
    model, prompt = gpt(0), torch.tensor([[5, 9, 3]])
    want = generate(model, prompt, max_new_tokens=23)
    got = speculate(
        model, gpt(draft, n_layers=1 if draft else 2), prompt, max_new_tokens=23, guesses=guesses
    )
    assert torch.equal(got.tokens, want)
    if draft == 0:  # its own guesses: guesses + 1 tokens a pass
        assert got.accepted == got.guessed
        assert got.model_calls == -(-23 // (guesses + 1))
    else:
        assert got.accepted < got.guessed and got.accepted + got.model_calls == 23


def test_a_guess_that_the_model_never_writes_is_refused_whatever_is_drawn(monkeypatch):
    model, draft = DRAFTS["never"]()
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(()))  # the least of all draws
    got = speculate(model, draft, PROMPT, max_new_tokens=3, guesses=2, temperature=1.0)
    assert got.accepted == 0


def test_one_token_may_be_asked_for():
    model, prompt = gpt(0), torch.tensor([[5, 9, 3]])
    got = speculate(model, gpt(7), prompt, max_new_tokens=1)
    assert torch.equal(got.tokens, generate(model, prompt, max_new_tokens=1))


def test_it_stops_at_an_end_even_among_accepted_guesses():
    model, prompt = gpt(0), torch.tensor([[5, 9, 3]])
    free = generate(model, prompt, max_new_tokens=20)
    for end in set(free[0, 3:].tolist()):
        want = generate(model, prompt, max_new_tokens=20, eos_id=[end, 99])
        got = speculate(model, gpt(0), prompt, max_new_tokens=20, guesses=5, eos_id=[end, 99])
        assert torch.equal(got.tokens, want)


def test_the_same_seed_gives_the_same_text_and_modes_stay():
    model, draft, prompt = gpt(0).train(), gpt(3), torch.tensor([[5, 9, 3]])
    how = {"max_new_tokens": 12, "temperature": 1.3, "top_k": 6, "top_p": 0.9}
    a, b, c = (speculate(model, draft, prompt, seed=s, **how).tokens for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert model.training and not draft.training


def test_what_cannot_be_is_refused():
    prompt = torch.tensor([[5, 9, 3]])
    with pytest.raises(
        ValueError, match="draft must have the model's tokenizer: got .* 16, .* is 17"
    ):
        speculate(gpt(0), gpt(1, vocab_size=16), prompt)
    with pytest.raises(ValueError, match="input_ids must be one row: got 2"):
        speculate(gpt(0), gpt(1), prompt.repeat(2, 1))
    with pytest.raises(ValueError, match="guesses must be a whole number of at least 1: got 0"):
        speculate(gpt(0), gpt(1), prompt, guesses=0)
    with pytest.raises(ValueError, match="max_len=60"):
        speculate(gpt(0), gpt(1), prompt, max_new_tokens=60)
    source = Transformer(TransformerConfig(17, 24, 3, n_encoder_layers=1, n_decoder_layers=1))
    with pytest.raises(ValueError, match="draft must be a decoder: got Transformer"):
        speculate(gpt(0), source, prompt)


def from_folder(folder, words):
    """A model of 17 tokens, loaded from a folder whose tokenizer.json has these words."""
    gpt(0).save(folder)
    content = {"model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return load(folder)


def test_a_draft_of_another_tokenizer_is_refused_where_both_are_known(tmp_path):
    words = "abcdefghijklmnopq"
    model = from_folder(tmp_path / "a", words)
    for draft in (model, copy.deepcopy(model), from_folder(tmp_path / "b", words), gpt(1)):
        speculate(model, draft, PROMPT, max_new_tokens=2)
    other = from_folder(tmp_path / "c", words.replace("d", "z"))
    wanted = "draft must have the model's tokenizer: id 3 is 'z' in .*c.tokenizer.json, 'd' in"
    with pytest.raises(ValueError, match=wanted):
        speculate(model, other, PROMPT, max_new_tokens=2)
