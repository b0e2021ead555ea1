"""The recorded runs on looking back: translators, readers of a pronoun, what ships."""

import pytest
import torch
import torch.nn.functional as F

from llmbook.experiments import attention as lab
from llmbook.experiments import pronoun
from llmbook.experiments.record import recorded


def translator(score="attention", **how):
    torch.manual_seed(3)
    return lab.Translator(7, 5, 6, score, **how).double()


def some(n=4, longest=9):
    g = torch.Generator().manual_seed(1)
    lengths = torch.tensor([longest, 3, 6, 1])[:n]
    return torch.randint(7, (n, longest), generator=g), lengths


# --- translators


@pytest.mark.parametrize("score", lab.SCORES)
def test_padding_changes_nothing(score):
    model, (x, lengths) = translator(score), some()
    with torch.no_grad():
        together, _ = model(x, lengths, steps=3)
        for row, n, want in zip(x, lengths, together, strict=True):
            alone, weights = model(row[None, :n], n[None], steps=3)
            torch.testing.assert_close(alone[0], want)
            assert all(w.shape == (1, n) for w in weights)


def test_weights_are_shares_of_the_letters_there_and_the_context_is_their_mean():
    model, (x, lengths) = translator(), some()
    _, weights = model(x, lengths, steps=2)
    for w in weights:
        torch.testing.assert_close(w.sum(1), torch.ones(4).double())
        assert (w[torch.arange(9) >= lengths[:, None]] == 0).all()
    states, _ = model.encode(x, lengths)
    seen = []
    model.cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 6:]))
    model(x, lengths, steps=2)
    want = torch.einsum("bj,bjh->bh", weights[1], states)
    torch.testing.assert_close(seen[1], want)


def test_a_score_is_its_formula():
    g = torch.Generator().manual_seed(2)
    s, states = torch.randn(2, 6, generator=g), torch.randn(2, 3, 12, generator=g)
    torch.manual_seed(4)
    score = lab.AdditiveScore(6)
    found = score(s, score.U(states))
    for b in range(2):
        for j in range(3):
            want = score.v.weight[0] @ torch.tanh(score.W.weight @ s[b] + score.U(states[b, j]))
            torch.testing.assert_close(found[b, j], want)


def test_without_attention_the_context_stays_the_two_last_states():
    model, (x, lengths) = translator("no attention"), some()
    seen = []
    model.cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 6:]))
    logits, weights = model(x, lengths, steps=3)
    assert weights == [] and len(seen) == 3
    _, summary = model.encode(x, lengths)
    for context in seen:
        torch.testing.assert_close(context, summary)


def test_hidden_letters_and_the_favourite_get_no_weight():
    model, (x, lengths) = translator(), some()
    hidden = torch.zeros_like(x).bool()
    hidden[0, 2:5] = True
    _, weights = model(x, lengths, steps=2, hidden=hidden)
    assert all((w[0, 2:5] == 0).all() and w[0, 1] > 0 for w in weights)
    distracted = lab.Distracted(7, 5, 6).double()
    distracted.load_state_dict(model.state_dict())
    x, lengths = x[:3], lengths[:3]  # a single letter has no second best
    _, own = model(x, lengths, steps=1)
    _, other = distracted(x, lengths, steps=1)
    assert (other[0].gather(1, own[0].argmax(1, keepdim=True)) == 0).all()
    rest = own[0].scatter(1, own[0].argmax(1, keepdim=True), 0.0)
    torch.testing.assert_close(other[0], rest / rest.sum(1, keepdim=True))


def test_the_true_symbol_is_fed_in_training_and_its_own_when_it_writes():
    model, (x, lengths) = translator(), some()
    y = torch.tensor([[0, 1, 2], [4, 4, 4], [1, 0, 3], [2, 2, 1]])
    free, _ = model(x, lengths, steps=3)
    own, _ = model(x, lengths, free.argmax(-1))
    torch.testing.assert_close(free, own)
    forced, _ = model(x, lengths, y)
    assert (forced[:, 1] - free[:, 1]).abs().max() > 1e-4


def test_dates_become_ids_and_new_ones_were_not_trained_on():
    x, lengths, y = lab.as_ids([("3 May 2001", "2001-05-03"), ("1/2/1999", "1999-01-02")])
    assert x.shape == (2, 10) and lengths.tolist() == [10, 8] and y.shape == (2, 10)
    assert lab.LETTERS.decode(x[1, :8]) == "1/2/1999" and lab.DIGITS.decode(y[0]) == "2001-05-03"
    seen = {
        lab.LETTERS.decode(r[:n]) for r, n in zip(*lab.as_ids(lab.dates(6000, generator=3))[:2])
    }
    x, lengths, _ = lab.new_dates(3)
    fresh = {lab.LETTERS.decode(row[:n]) for row, n in zip(x, lengths, strict=True)}
    assert len(x) > 300 and not fresh & seen


# --- pronouns


def test_it_means_what_the_last_word_decides_and_test_pairs_are_unseen():
    data, lexicon = pronoun.stories()
    pairs = {}
    for part, (ids, meant) in data.items():
        words = [[lexicon[i] for i in row] for row in ids]
        assert all(row[pronoun.IT] == "it" and len(row) == pronoun.LAST + 1 for row in words)
        for row, noun in zip(words, meant, strict=True):
            place = 1 if row[pronoun.LAST] in pronoun.OF_ANIMALS else 6
            assert lexicon[noun] == row[place]
        pairs[part] = {(row[1], row[6]) for row in words}
    assert not pairs["train"] & pairs["test"] and len(pairs["test"]) == 16


def test_masks_say_who_may_look_and_a_causal_reader_cannot_know_at_it():
    data, lexicon = pronoun.stories()
    ids = data["train"][0][:1].repeat(2, 1)
    ids[1, pronoun.LAST] = lexicon.index("wide")
    for name, (mask, at) in pronoun.MASKS.items():
        torch.manual_seed(5)
        with torch.no_grad():
            one, two = pronoun.Reader(len(lexicon), mask, at)(ids)
        assert torch.equal(one, two) == (name == "causal"), name
    extra = pronoun.glance() ^ pronoun.MASKS["causal"][0]
    assert extra.nonzero().tolist() == [[pronoun.IT, pronoun.LAST]]


def test_a_head_is_scaled_dot_product_attention():
    torch.manual_seed(6)
    head, x, mask = pronoun.Head(8), torch.randn(2, 5, 8), torch.ones(5, 5).tril().bool()
    want = F.scaled_dot_product_attention(head.q(x), head.k(x), head.v(x), attn_mask=mask)
    torch.testing.assert_close(head(x, mask), want)


# --- the record


def test_the_translator_that_ships_writes_new_dates():
    hits = lab.right(lab.shipped(), *lab.new_dates(1))
    assert hits.all(1).double().mean() > 0.97
    assert sum(path.stat().st_size for path in lab.WEIGHTS.iterdir()) < 160_000


def test_every_run_is_recorded_readers_for_five_seeds():
    runs = recorded(lab.OUT)
    for part, key, _ in lab.points():
        assert key in runs[part], (part, key)
    for name in pronoun.MASKS:
        assert len(lab.over_seeds("pronoun", name)) == len(lab.SEEDS) == 5
    assert all(0 <= v <= 1 for v in runs["pronoun"].values())


@pytest.mark.slow
@pytest.mark.parametrize("score", ["attention", "no attention"])
def test_recorded_reversals_come_out_again(score):
    found = lab.reversed_digits(score, 2)
    assert found == pytest.approx(lab.over_seeds("reversal", score)[1], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "causal, one glance ahead"])
def test_a_recorded_reader_comes_out_again(name):
    found = pronoun.resolved(*pronoun.MASKS[name], 3)
    assert found == pytest.approx(lab.over_seeds("pronoun", name)[2], abs=0.1)
