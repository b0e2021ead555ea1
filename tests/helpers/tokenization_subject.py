"""What the tokenization tests tokenize: texts in many scripts, and a tokenizer of both sides."""

import pytest
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmbook.data import documentation
from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS

END = "<|endoftext|>"
LANGUAGES = (
    "The cat isn't on the mat; it's on the 12345th shelf.\n\n    def f(x):\n\treturn x\n"
    "Kočka leží na rohožce a přede. Příliš žluťoučký kůň. Кошка лежит на коврике.\n"
    "猫坐在垫子上。ネコはマットの上にいます。 고양이가 매트 위에 있다.\r\n"
    "القطة على السجادة  \u00a0 ½ ⅷ ٣٤٥ 🐈‍⬛👩🏽‍🚀 naïve e\u0301 \x00\x1c\x1f\u2028 ﬁn ſt\n"
)
AWKWARD = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            [
                " ",
                "\n",
                "\r\n",
                "\t",
                "'s",
                "'LL",
                "'ſ",
                " the",
                "0123456789",
                END,
                "<|endoftext",
                "\x00",
                "\x1c",
                "\u00a0",
                "é",
                "猫",
                "🐈",
                "a" * 99,
            ]
        ),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="session")
def corpus():
    return documentation().text


@pytest.fixture(scope="session", params=["gpt2", "gpt4"])
def pair(request, corpus):
    """A tokenizer of ours and the library's, from the same file."""
    text = LANGUAGES * 20 + corpus[:100_000]
    ours = BPETokenizer.train(text, 900, (END, "<|pad|>"), pattern=request.param, backend="python")
    return ours, ours.fast()


def library(texts, vocab_size, pattern, special_tokens=(END,)):
    """The library's own trainer, set up here and not by the package."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pattern == "gpt4":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LIBRARY_PATTERNS["gpt4"]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


def charsmap(entries):
    """A precompiled table of replacements as SentencePiece packs it: dict from text to text."""
    trie, strings = {}, b""
    for text, replacement in entries.items():
        node = trie
        for byte in text.encode():
            node = node.setdefault(byte, {})
        node[0] = len(strings)  # where the replacement begins
        strings += replacement.encode() + b"\0"
    units, taken = {0: 0}, {0}
    waiting = [(0, trie)]
    while waiting:
        at, node = waiting.pop()
        base = next(b for b in range(1, 10**6) if not any(b ^ byte in taken for byte in node))
        units[at] |= (at ^ base) << 10 | (1 << 8 if 0 in node else 0)
        taken |= {base ^ byte for byte in node}
        for byte, below in node.items():
            if byte:
                units[base ^ byte] = byte
                waiting.append((base ^ byte, below))
            else:
                units[base] = below | 1 << 31
    size = (max(units) // 256 + 1) * 256
    packed = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(size))
    return len(packed).to_bytes(4, "little") + packed + strings
