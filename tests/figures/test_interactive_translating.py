"""The translator in the page: on a reader's own sentence it writes and looks as PyTorch's does."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.experiments import transformer as runs
from llmbook.experiments import translator as lab
from llmbook.figures import Translating

WEIGHTS = runs.shipped()
in_browser = pytest.mark.browser


def figure(text="the small dogs saw a red bird", **state):
    return Translating(WEIGHTS, lab.vocabulary(), lab.english(), text, **state)


def by_torch(text, without="nothing"):
    """(ids with the end, cross-attention's weights, probability of each token) of the model."""
    model = runs.shipped_model()
    if without == "positions":
        model.embed = lambda table, ids, positions: 8 * table(ids)  # √64
    if without == "cross-attention":
        for layer in model.decoder:
            layer.cross.sublayer.out_proj.weight.data.zero_()
            layer.cross.sublayer.out_proj.bias.data.zero_()
    source, written, chances = torch.tensor([lab.encode(text)]), [lab.BOS], []
    with torch.no_grad():
        while len(written) <= 34 and lab.EOS not in written:
            p = model(source, torch.tensor([written]))[0, -1].softmax(-1)
            chances.append(p.max().item())
            written.append(p.argmax().item())
        target = torch.tensor([written[1:]])
        weights, _ = lab.activations(model, source, None, target)
    return written[1:], weights[0], chances


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: figure(""), "text must have 1 to 20 words"),
        (lambda: figure("dogs " * 21), "text must have 1 to 20 words"),
        (lambda: figure("the table"), r"text must be of the known words: got \['table'\]"),
        (lambda: figure(without="norms"), "without must be one of"),
        (lambda: figure(head=4), "head must be a whole number from 0 to 3"),
        (lambda: figure(layer=2), "layer must be a whole number from 0 to 1"),
        (lambda: Translating({}, ["a"], ["a"], "a"), "weights must be a pre-norm Transformer's"),
        (lambda: Translating(WEIGHTS, ["a"], ["a"], "a"), "the table's 136 tokens: got 1"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@in_browser
@pytest.mark.parametrize("without", ["nothing", "positions", "cross-attention"])
def test_it_writes_and_looks_as_the_model_does(open_widget, without):
    text = "the young queen will follow some white horses"
    page = open_widget(figure(text, without=without, layer=1, head=2))
    page.page.locator(".cell").first.wait_for()
    ids, weights, chances = by_torch(text, without)
    assert page.data(".token", "id") == ids
    np.testing.assert_allclose(page.data(".token", "p"), chances, atol=3e-3)
    shown = np.array(page.data(".cell", "value")).reshape(len(ids), -1)
    np.testing.assert_allclose(shown, weights[1, 2], atol=3e-3)
    page.pick("layer", "0")
    shown = np.array(page.data(".cell", "value")).reshape(len(ids), -1)
    np.testing.assert_allclose(shown, weights[0, 2], atol=3e-3)


@in_browser
def test_words_that_it_does_not_know_are_left_out_and_named(open_widget):
    page = open_widget(figure())
    page.page.locator(".cell").first.wait_for()
    page.control("text").fill("The big table sleeps, quietly!")
    assert page.state("text") == "the big sleeps" and page.state("token") == -1
    said = page.page.locator(".readout").inner_text()
    assert "does not know them: table, quietly" in said
    page.control("text").fill("")
    assert page.state("text") == "the big sleeps"  # nothing to translate: it keeps what it had


@in_browser
def test_without_the_mask_it_writes_something_else(open_widget):
    page = open_widget(figure())
    page.page.locator(".cell").first.wait_for()
    told = page.page.locator(".readout").get_attribute("data-told")
    page.pick("without", "mask")
    assert page.page.locator(".readout").get_attribute("data-told") != told
    page.pick("without", "nothing")
    assert page.page.locator(".readout").get_attribute("data-told") == told
