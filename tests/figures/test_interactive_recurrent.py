"""Recurrent networks in the page: what they show equals PyTorch's, on the reader's own text."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.experiments import recall, recurrent
from llmbook.figures import CellReader, GradientReach, HeldGate
from llmbook.tokenization.characters import CharacterTokenizer

CHARACTERS = CharacterTokenizer()
WEIGHTS, MEMORY = recurrent.shipped("characters"), recurrent.shipped("recall")
in_browser = pytest.mark.browser


def network():
    model = recurrent.Characters("RNN", 192, len(CHARACTERS))
    model.load_state_dict(WEIGHTS)
    return model.double()


def one_hot(text):
    return F.one_hot(torch.tensor(CHARACTERS.encode(text)), len(CHARACTERS)).double()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: CellReader(WEIGHTS, CHARACTERS.characters, "x"),
            "text must be a text from 2 to 120",
        ),
        (lambda: CellReader(WEIGHTS, CHARACTERS.characters, "naïve"), "network's characters"),
        (
            lambda: CellReader(WEIGHTS, CHARACTERS.characters, unit=192),
            "unit must be a whole number",
        ),
        (lambda: CellReader(WEIGHTS, CHARACTERS.characters, "ab", place=2), "place must be"),
        (lambda: CellReader({"out.weight": 0}, "ab", "ab"), "weights must have one layer"),
        (lambda: GradientReach(WEIGHTS, CHARACTERS.characters, gain=9), "gain must be a number"),
        (lambda: HeldGate(MEMORY, first="E"), "first must be one of A, B, C, D"),
        (lambda: HeldGate(MEMORY, ""), "text must be a text from 1 to 120"),
        (lambda: HeldGate(MEMORY, forget=1.5), "forget must be a number from 0 to 1"),
        (lambda: HeldGate(MEMORY, forget=-0.5), "forget must be a number from 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@in_browser
def test_states_and_guesses_of_the_reader_s_text_are_pytorch_s(open_widget):
    page = open_widget(CellReader(WEIGHTS, CHARACTERS.characters, unit=5, place=2))
    page.page.locator(".guess").first.wait_for()
    page.control("text").fill("for k, ïv in d: x")  # a character that it has not is left out
    text = "for k, v in d: x"
    assert page.state("text") == text
    note = page.page.locator(".left-out")
    assert note.inner_text() == "It does not know ï, and leaves that out."
    page.control("text").fill("日")
    assert page.state("text") == text and "needs two characters" in note.inner_text()
    page.control("text").fill(text)
    assert note.inner_text() == ""
    with torch.no_grad():
        states, _ = network().layer(one_hot(text)[None])
        guesses = network().out(states)[0].softmax(-1)
    np.testing.assert_allclose(page.data(".letter", "h"), states[0, :, 5], atol=2e-3)
    page.slide("unit", 100)
    np.testing.assert_allclose(page.data(".letter", "h"), states[0, :, 100], atol=2e-3)
    page.slide("place", 6)
    shown = page.data(".guess", "id", "p")
    best = guesses[6].topk(6)
    np.testing.assert_allclose([p for _, p in shown], best.values, atol=2e-3)
    assert [int(i) for i, _ in shown] == best.indices.tolist()
    ids = torch.tensor(CHARACTERS.encode(text))
    nats = F.nll_loss(guesses[:-1].log(), ids[1:]).item()
    assert page.data(".readout", "nats") == [pytest.approx(nats, abs=2e-3)]


@in_browser
def test_the_gradient_s_reach_is_autograd_s(open_widget):
    text, gain = "a list of names", 1.4
    figure = GradientReach(WEIGHTS, CHARACTERS.characters, text)
    page = open_widget(figure)
    page.page.locator(".point").first.wait_for()
    page.slide("gain", gain)
    w = {k: v.double() for k, v in WEIGHTS.items()}
    h, states = torch.zeros(192).double(), []
    for x in one_hot(text)[:-1]:
        h = torch.tanh(
            w["layer.weight_ih_l0"] @ x
            + gain * w["layer.weight_hh_l0"] @ h
            + w["layer.bias_ih_l0"]
            + w["layer.bias_hh_l0"]
        ).requires_grad_()
        h.retain_grad()
        states.append(h)
    logits = w["out.weight"] @ h + w["out.bias"]
    loss = F.cross_entropy(logits, torch.tensor(CHARACTERS.encode(text[-1])[0]))
    loss.backward()
    sizes = torch.stack([h.grad.norm() for h in states])
    np.testing.assert_allclose(page.data(".point", "value"), sizes / sizes[-1], rtol=2e-2)
    assert page.data(".point", "back")[0] == len(text) - 2
    assert page.data(".readout", "p") == [pytest.approx((-loss).exp().item(), abs=2e-3)]


@in_browser
@pytest.mark.parametrize("how", [{}, {"forget": 0.8}, {"cut": True}])
def test_a_held_gate_answers_as_the_recorded_experiment_does(open_widget, how):
    text = "any noise that you like to type here"
    page = open_widget(HeldGate(MEMORY, text, first="C", **how))
    page.page.locator(".answer").first.wait_for()
    net = recall.lstm(4.0)()
    net.load_state_dict(MEMORY)
    ids = torch.tensor([[2, *(4 + ord(c) % 4 for c in text)]])
    want = recall.read_held(net, F.one_hot(ids, 8).float(), **how).softmax(-1)[0]
    np.testing.assert_allclose(page.data(".answer", "last"), want, atol=3e-3)
    assert page.data(".readout", "right") == [float(want.argmax() == 2)]


@in_browser
def test_the_forget_gate_is_taken_and_given_back(open_widget):
    page = open_widget(HeldGate(MEMORY))
    page.page.locator(".answer").first.wait_for()
    own = page.data(".answer", "last")
    page.slide("forget", 0.5)
    assert page.state("forget") == 0.5 and page.data(".answer", "last") != own
    page.pick("whose", "own")
    assert page.state("forget") == -1 and page.data(".answer", "last") == own
