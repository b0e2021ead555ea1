"""The head patterns: labels, scores and entropy, in Python and as the browser draws them."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures.heads import HeadPatterns, describe, entropy, pattern_scores, read_heads
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

in_browser = pytest.mark.browser
ONE = "the cat saw the dog and the cat ran".split()
TWO = ["a", "<b>", "<b>", "a", "<b>"]


def previous(n):
    w = np.eye(n, k=-1)
    w[0, 0] = 1
    return w


def uniform(n, causal=False):
    w = np.tril(np.ones((n, n))) if causal else np.ones((n, n))
    return w / w.sum(1, keepdims=True)


def random_weights(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=g)).softmax(-1)


@pytest.fixture
def figure():
    weights = []
    for seed, tokens in enumerate((ONE, TWO)):
        n = len(tokens)
        w = random_weights(seed, 2, 3, n, n).numpy().copy()
        w[0, 0], w[0, 1], w[1, 2] = previous(n), np.eye(n), uniform(n)
        weights.append(w)
    return HeadPatterns([ONE, TWO], weights)


# --- in Python


@pytest.mark.parametrize("n", [5, 9, 24])
def test_pure_patterns_get_their_names_and_the_uniform_map_is_diffuse(n):
    first = np.zeros((n, n))
    first[:, 0] = 1
    cases = {"previous token": previous(n), "same token": np.eye(n), "first token": first}
    for label, w in cases.items():
        found = describe(w)
        assert (found["label"], found["score"]) == (label, 1.0)
        assert found["entropy"] == 0
    for causal in (False, True):
        assert describe(uniform(n, causal))["label"] == "diffuse"
    assert describe(uniform(n))["score"] == pytest.approx(1 / n)


def test_the_entropy_of_uniform_weights_is_ln_n_and_if_causal_the_mean_of_ln_i():
    for n in (2, 7, 24):
        assert entropy(uniform(n)) == pytest.approx(math.log(n), rel=1e-12)
        causal = np.mean(np.log(np.arange(1, n + 1)))
        assert entropy(uniform(n, causal=True)) == pytest.approx(causal)
    assert entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx(math.log(2) / 2)


def test_a_copying_head_looks_behind_the_earlier_copies_of_its_token():
    w = uniform(9, causal=True)
    for i, places in {3: [1], 6: [1, 4], 7: [2]}.items():  # the the the cat: 0, 3, 6; 1, 7
        w[i] = 0
        w[i, places] = 1 / len(places)
    assert pattern_scores(w, ONE)["after an earlier copy"] == 1
    assert describe(w, ONE)["label"] == "after an earlier copy"
    assert pattern_scores(w)["after an earlier copy"] == 0
    # where the word behind the copy is the query itself, there is nothing to look at yet
    assert pattern_scores(np.eye(3), ["a", "a", "b"])["after an earlier copy"] == 0


def test_the_threshold_decides_between_a_name_and_diffuse():
    others = np.roll(np.eye(12), 5, axis=1)  # each looks five to the right: a nameless pattern
    for share, label in ((0.41, "previous token"), (0.39, "diffuse")):
        w = share * previous(12) + (1 - share) * others
        assert pattern_scores(w)["previous token"] == pytest.approx(share)
        assert describe(w)["label"] == label


def test_the_figure_reads_as_describe_does_and_starts_at_the_last_token(figure):
    assert figure.query == len(ONE) - 1
    assert figure.reading()["label"] == "previous token"
    assert figure.reading(head=1)["label"] == "same token"
    assert figure.reading(sentence=1, layer=1, head=2)["label"] == "diffuse"
    assert figure.reading(layer=1, head=2)["entropy"] == pytest.approx(
        math.log(len(ONE)), abs=1e-3
    )
    assert len(json.dumps(widget_state(figure), allow_nan=False)) < 12_000


def test_weights_that_do_not_fit_are_refused():
    good = random_weights(0, 2, 3, 5, 5)
    for bad, message in (
        (good[0], r"weights must be \(layers, heads, 5, 5\) for 5 tokens: got \(3, 5, 5\)"),
        (good[..., :4], r"got \(2, 3, 5, 4\)"),
        (good * 1.01, "each row must sum to 1"),
        (good * float("nan"), "each row must sum to 1"),
        (good - 0.5, "must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            HeadPatterns([TWO], [bad])
    with pytest.raises(ValueError, match="one array for each sentence: got 1 for 2"):
        HeadPatterns([TWO, TWO], [good])
    with pytest.raises(ValueError, match="every sentence must come with 2 layers of 3 heads"):
        HeadPatterns([TWO, TWO], [good, good[:1]])
    with pytest.raises(ValueError, match="2 to 24 tokens: got 25"):
        HeadPatterns([["x"] * 25], [random_weights(0, 1, 1, 25, 25)])
    with pytest.raises(TypeError, match=r"text.split\(\)"):
        HeadPatterns(["a b c"], [good])
    for name, value in (("sentence", 1), ("layer", 2), ("head", -1), ("query", 5)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 0 to"):
            HeadPatterns([TWO], [good], **{name: value})
        with pytest.raises(TypeError, match=f"{name} must be a whole number from 0 to"):
            HeadPatterns([TWO], [good], **{name: 0.5})
        assert getattr(HeadPatterns([TWO], [good], **{name: np.int64(0)}), name) == 0
    with pytest.raises(ValueError, match=r"\(tokens, tokens\): got \(5,\)"):
        entropy(np.ones(5))
    with pytest.raises(ValueError, match="as many as the rows of weights: got 3 for 2"):
        pattern_scores(np.eye(2), ["a", "b", "c"])


# --- in the browser


def shown(page):
    return page.page.eval_on_selector(
        ".readout", "e => [e.dataset.label, +e.dataset.score, +e.dataset.entropy]"
    )


@in_browser
def test_label_score_and_entropy_are_python_s_for_every_head_and_sentence(open_widget, figure):
    page = open_widget(figure)
    for sentence in (0, 1):
        page.pick("sentence", sentence)
        assert page.state("query") == len(figure.sentences[sentence]) - 1
        for layer in (0, 1):
            for head in (0, 1, 2):
                page.page.locator(f'button[data-layer="{layer}"][data-head="{head}"]').click()
                want = figure.reading(sentence, layer, head)
                label, score, spread = shown(page)
                assert label == want["label"]
                assert score == pytest.approx(want["score"], rel=1e-9)
                assert spread == pytest.approx(want["entropy"], rel=1e-9)
                assert label in page.text(".readout")
                told = [part.rsplit(" ", 1) for part in page.text(".note").split(" · ")]
                told = {name: float(score) for name, score in told}
                assert told == pytest.approx(want["scores"], abs=0.0051)
                drawn = page.data(".cell", "i", "j", "value")
                n = len(figure.sentences[sentence])
                np.testing.assert_array_equal(
                    np.array(drawn)[:, 2].reshape(n, n),
                    figure.weights_stored[sentence][layer][head],
                )
    labels = page.page.eval_on_selector_all(
        "button[data-layer]", "els => els.map(e => e.dataset.label)"
    )
    assert labels == [figure.reading(1, i, j)["label"] for i in (0, 1) for j in (0, 1, 2)]


@in_browser
def test_the_query_moves_by_row_by_token_and_by_button_and_its_row_is_shown(open_widget, figure):
    page = open_widget(figure)
    page.page.locator('.cell[data-i="3"][data-j="1"]').click()
    assert page.state("query") == 3
    np.testing.assert_array_equal(page.data(".token", "value"), figure.weights_stored[0][0][0][3])
    page.page.locator('.token[data-j="6"]').click()
    assert page.state("query") == 6
    assert "“the” (token 7) looks at “and” (6) 1.00" in page.text(".readout")
    page.page.keyboard.press("Tab")  # the keyboard's place in the row of tokens is not lost
    page.page.keyboard.press("Enter")
    assert page.state("query") == 7
    page.set("query", 6)
    for name, to in (("next", 7), ("next", 8), ("back", 7)):
        page.control(name).click()
        assert page.state("query") == to
    page.press("next", "Enter")
    assert page.state("query") == 8 and page.control("next").is_disabled()
    page.pick("sentence", 1)
    assert page.page.locator(".token").all_inner_texts() == TWO  # a token is text, never markup
    page.set("query", 0)
    assert page.control("back").is_disabled()


# --- with a model: the reader's text, a head switched off, less to see


def of_small(**options):
    model, tokenizer = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    return HeadPatterns.of(model, tokenizer, ["the list of the list"], "small", **options)


def bits(logits, ids):
    return F.cross_entropy(logits[:-1], torch.tensor(ids[1:])).item() / math.log(2)


def read_in_the_page(page):
    page.page.wait_for_function("document.querySelector('.readout').dataset.live === '1'")
    values = page.page.eval_on_selector(".readout", "e => [+e.dataset.before, +e.dataset.now]")
    n = page.page.locator(".token").count()
    cells = np.array(page.data(".cell", "i", "j", "value"))[:, 2].reshape(n, n)
    return values, cells


def test_reading_with_all_heads_and_everything_seen_is_the_model_s_own():
    small = load("small").eval()
    ids = torch.randint(384, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, maps = read_heads(small, ids)
        torch.testing.assert_close(logits, small(ids), rtol=0, atol=1e-4)
        keep, seen = torch.ones(6, 4), torch.ones(9, 9).tril().bool()
        same, _ = read_heads(small, ids, keep=keep, seen=seen)
        keep[2, 1] = 0
        less, _ = read_heads(small, ids, keep=keep)
        near, looks = read_heads(small, ids, seen=seen & ~seen.tril(-3))
    torch.testing.assert_close(same, logits, rtol=0, atol=1e-4)
    assert maps.shape == (2, 6, 4, 9, 9)
    assert (less - logits).abs().max() > 1e-2 and (near - logits).abs().max() > 1e-2
    assert looks[..., 5, :3].abs().max() == 0


def test_the_figure_of_a_model_holds_its_weights_and_refuses_another_window():
    figure = of_small(layer=2, head=1)
    ids = torch.tensor(figure.ids)
    with torch.no_grad():
        want = read_heads(load("small").eval(), ids)[1][0]
    np.testing.assert_allclose(figure.weights_stored[0], want, atol=1e-4)
    assert figure.sentences[0][0] == "⊔" and len(figure.sentences[0]) == ids.shape[1]
    with pytest.raises(ValueError, match="window must be one of 0, 16, 8, 4, 2: got 3"):
        of_small(window=3)


@in_browser
def test_the_reader_s_text_is_read_as_by_pytorch(open_widget):
    page = open_widget(of_small(layer=3, head=2))
    text = "if <b>x</b>, the list"
    page.control("prompt").fill(text)
    (before, now), cells = read_in_the_page(page)
    ids = [0, *BPETokenizer.load(SHIPPED / "small").encode(text, ())]
    with torch.no_grad():
        logits, maps = read_heads(load("small").eval(), torch.tensor([ids]))
    np.testing.assert_allclose(cells, maps[0, 3, 2], atol=1e-3)
    assert before == now == pytest.approx(bits(logits[0], ids), abs=2e-3)
    assert page.page.locator(".readout b b, .token b").count() == 0
    page.control("prompt").fill("")
    page.page.wait_for_function("document.querySelector('.readout').dataset.live === ''")
    assert page.page.locator(".token").count() == 1 + len(
        BPETokenizer.load(SHIPPED / "small").encode("the list of the list", ())
    )


@in_browser
def test_a_head_switched_off_and_a_window_cost_what_they_cost_in_pytorch(open_widget):
    figure = of_small(layer=1, head=3)
    page, ids = open_widget(figure), figure.ids[0]
    keep, n = torch.ones(6, 4), len(ids)
    keep[1, 3] = 0
    back = torch.arange(n)[:, None] - torch.arange(n)
    near = (back >= 0) & (back < 2)
    first = near | (back >= 0) & (torch.arange(n) == 0)
    small = load("small").eval()
    for press, how in (
        ({"off": True}, {"keep": keep}),
        ({"window": 2}, {"keep": keep, "seen": near}),
        ({"first": True}, {"keep": keep, "seen": first}),
        ({"off": False}, {"seen": first}),
    ):
        for name, value in press.items():
            page.set(name, value)
        with torch.no_grad():
            whole, want = (read_heads(small, torch.tensor([ids]), **h) for h in ({}, how))
        page.page.wait_for_function(
            "want => Math.abs(document.querySelector('.readout').dataset.now - want) < 2e-3",
            arg=bits(want[0][0], ids),
        )
        (before, _), cells = read_in_the_page(page)
        assert before == pytest.approx(bits(whole[0][0], ids), abs=2e-3)
        np.testing.assert_allclose(cells, want[1][0, 1, 3], atol=1e-3)


@in_browser
def test_where_the_weights_are_missing_the_example_stays_and_it_is_said(open_widget):
    figure = of_small()
    figure.weights, figure.weights_name = b"", "gone"
    page = open_widget(figure)
    page.control("off").click()
    page.page.get_by_text("cannot run here").wait_for()
    assert page.page.locator(".cell").count() > 9
    page.problems.clear()
