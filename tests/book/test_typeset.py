"""Formulas and questions in boxes, which no program sets: the same in every host."""

import re

import pytest

from llmbook.book import predictions, records
from llmbook.book.predictions import predict as ask
from llmbook.book.typeset import to_html, to_text


@pytest.mark.parametrize(
    "text, html, plain",
    [
        ("a < b", "a &lt; b", "a < b"),
        ("$h_{t-1}$", "<i>h</i><sub><i>t</i>−1</sub>", "h_{t−1}"),
        ("$W_O^i$", "<i>W</i><sub><i>O</i></sub><sup><i>i</i></sup>", "W_O^i"),
        (r"$\sqrt{d/2}$", '√<span class="root"><i>d</i>/2</span>', "√(d/2)"),
        (r"$2\pi \le 10000^{2i/d}$", "2π\u2009≤\u200910000<sup>2<i>i</i>/<i>d</i></sup>", None),
        (r"$\text{PE}(t)$", "PE(<i>t</i>)", "PE(t)"),
        ("$x_1, 60,611$", "<i>x</i><sub>1</sub>,60,611", "x_1, 60,611"),
        (r"$-x$", "−\u2009<i>x</i>", "−x"),
    ],
)
def test_a_small_formula_is_set_with_html_alone(text, html, plain):
    formula = f'<span class="formula">{html}</span>' if "$" in text else html
    assert to_html(text) == formula
    assert plain is None or to_text(text) == plain


@pytest.mark.parametrize(
    "bad", ["$x", r"$\begin{pmatrix}$", r"$\unknown$", "$x_{1$", "$x}$", "$x_$"]
)
def test_what_cannot_be_set_is_refused(bad):
    with pytest.raises(ValueError):
        to_html(bad)


def test_every_text_of_the_ledger_can_be_set():
    for row in records.ledger().values():
        for field in ("statement", "note"):
            assert to_html(row[field]) and "$" not in to_text(row[field])
            plain = "".join(row[field].split("$")[::2])
            assert not re.search(r"[_^]", plain), f"{row['id']}: a formula without dollars"


# --- predict first


@pytest.fixture
def shown(monkeypatch):
    seen = []
    monkeypatch.setattr(predictions, "publish", lambda text, html: seen.append((text, html)))
    return seen


def test_a_question_stands_alone_where_only_text_is_shown(shown):
    ask("What happens at $t$?", ("it falls", "it rises"), answer=1, why="Because.")
    text, html = shown[0]
    assert text == "Predict first: What happens at t?\n  · it falls\n  · it rises"
    assert html.count('type="radio"') == 2 and 'data-answer="1"' in html
    assert "<details><summary>Reveal</summary>" in html and "It rises." in html
    ask("And then?", answer="Nothing.")
    assert "<textarea" in shown[1][1] and shown[1][0] == "Predict first: And then?"


@pytest.mark.parametrize(
    "options, answer, error",
    [(("a", "b"), 2, ValueError), (("a", "b"), True, ValueError), ((), 3, TypeError)],
)
def test_an_answer_that_is_none_of_the_options_is_refused(shown, options, answer, error):
    with pytest.raises(error):
        ask("What?", options, answer=answer)
    assert shown == []
