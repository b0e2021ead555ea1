"""The small model that follows is as good as later chapters need it."""

import json

import pytest
import torch

from llmbook.alignment import chat
from llmbook.data.verifiable import GRADED, LEVELS, SEEN, TRAINED_LEVELS, UNSEEN
from llmbook.evaluation import evaluate, questions
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

FOLDER = SHIPPED / "small-chat"
CARD = json.loads((FOLDER / "card.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def subject():
    return load("small-chat"), BPETokenizer.load(FOLDER)


def test_the_card_says_nine_of_ten_seen_questions_right_and_seven_of_ten_of_each_kind():
    seen = CARD["quality"]["seen"]
    assert set(seen["by kind"]) == set(SEEN)
    assert seen["mean"] >= 0.9 and min(seen["by kind"].values()) >= 0.7
    assert CARD["quality"]["errors of form"] <= 0.02


def test_graded_kinds_leave_something_to_learn():
    levels = CARD["quality"]["graded, by level"]
    assert set(levels) == {str(level) for level in range(1, LEVELS + 1)}
    trained = [levels[str(n)][k] for n in range(1, TRAINED_LEVELS + 1) for k in GRADED]
    beyond = [levels[str(n)][k] for n in range(TRAINED_LEVELS + 1, LEVELS + 1) for k in GRADED]
    assert sum(trained) / len(trained) > sum(beyond) / len(beyond) + 0.2


def test_it_answers_as_its_card_says(subject):
    report = evaluate(*subject, questions(SEEN, 8))
    assert report.exact() >= 0.85
    unseen = evaluate(*subject, questions(UNSEEN, 8))
    assert abs(unseen.exact() - CARD["quality"]["unseen"]["mean"]) < 0.2


def test_it_is_the_base_with_sixteen_more_tokens_and_the_book_s_template(subject):
    model, tokenizer = subject
    base, old = load("small"), BPETokenizer.load(SHIPPED / "small")
    assert model.config.vocab_size == base.config.vocab_size + len(chat.SPECIAL_TOKENS) == 400
    assert tokenizer.config["chat_template"] == chat.TEMPLATE
    assert model.config.eos_id == tokenizer.special_tokens[chat.END]
    assert tokenizer.encode("def f(x):") == old.encode("def f(x):")
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 3_000_000


def test_it_ends_by_itself(subject):
    model, tokenizer = subject
    asked = [[{"role": "user", "content": "Swap: red owl"}]]
    (reply,) = chat.reply(model, tokenizer, asked)
    assert reply.ended and reply.text == "owl red"
    ids = torch.tensor([chat.prompt_ids(tokenizer, asked[0])])
    from llmbook.decoding import generate

    assert generate(model, ids, max_new_tokens=40).shape[1] < ids.shape[1] + 12
