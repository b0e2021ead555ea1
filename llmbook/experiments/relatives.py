"""Three ways to cut words, trained alike: byte-pair encoding, WordPiece, Unigram.

All three have read the same words of the documentation, and have as many entries. `cuts()` holds
them ready to use; `python -m llmbook record relatives` trains them again. Nothing is
drawn at random: there are no seeds.

`MORPHEMES` are words with the places where their parts meet: a small yardstick of our own for
where a tokenizer cuts.
"""

import functools
import re
import string
from collections import Counter, namedtuple

from llmbook.data import documentation
from llmbook.experiments.record import RECORDED, recorded
from llmbook.tokenization import BPETokenizer, Unigram, WordPiece
from llmbook.tokenization.pretokenize import steps

OUT = RECORDED / "relatives.json"
SIZE, WORDS, LEAST = 1536, 1500, 12
Cuts = namedtuple("Cuts", "bpe wordpiece unigram")
MARK = "▁"  # Unigram's sign for the space before a word
bert_words = steps({"type": "BertPreTokenizer"})

MORPHEMES = """un|read|able re|write|able un|help|ful|ly care|less|ness token|iz|ation
normal|ize|d dis|connect|ed re|connect|ing un|expect|ed|ly pre|process|or use|less
quick|ly develop|er develop|ment im|possible mis|match|es un|register over|write|s
sub|class|es multi|process|ing in|direct|ly dis|agree|ment under|stand|ing
non|blocking re|calculat|ion un|believ|able friend|ly|ness in|accur|ate
counter|product|ive inter|national|iz|ation out|perform|s"""


def spoken(text):
    """Counts of a text's most common words, numbers and signs, for training: {word: count}.

    With a word for every printable sign of ASCII, and one for letters and digits inside a word:
    what remains unknown is not ASCII.
    """
    words = dict(Counter(re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", text)).most_common(WORDS))
    every = [chr(code) for code in range(33, 127)]
    for ring in (string.ascii_lowercase, string.ascii_uppercase, string.digits):
        every += [ring + ring[0]]
    return {word: 1 for word in every} | words


def train(words, size=SIZE, least=LEAST):
    """BPE, WordPiece and Unigram of `size` entries from {word: count}, each with its own sign.

    BPE and Unigram see a space before each word, WordPiece "##" inside it; signs stand without a
    space, too. least: pairs rarer than that do not compete in WordPiece's training, whose score is
    drawn to them.
    """
    signs = {word: n for word, n in words.items() if not word[0].isalpha()}
    spaced = [f" {word}" for word, n in words.items() for _ in range(n)]
    return Cuts(
        BPETokenizer.train(spaced, size, ()),
        WordPiece.train(words, size, min_count=least),
        Unigram.train({MARK + word: n for word, n in words.items()} | signs, size - 1),
    )


@functools.cache
def cuts():
    """The three as they are recorded; None where nothing is."""
    found = recorded(OUT)
    if not found:
        return None
    merges = [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in found["bpe"]]
    return Cuts(
        from_merges(merges),
        WordPiece({piece: i for i, piece in enumerate(found["wordpiece"])}),
        Unigram(dict(found["unigram"])),
    )


def from_merges(merges):
    """A byte-level tokenizer whose vocabulary is the bytes and what the merges make."""
    from llmbook.tokenization.byte_names import BYTE_ORDER

    tokens = [bytes([byte]) for byte in BYTE_ORDER] + [a + b for a, b in merges]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return BPETokenizer(vocab, merges)


def pieces(text, all_three):
    """{name: the tokens of a text as strings}; bytes that are no character as "⟨E2⟩"."""
    unigram = [all_three.unigram.cut(MARK + word) for word in text.split()]
    return {
        "BPE": [named(all_three.bpe.decode_bytes([i])) for i in all_three.bpe.encode(text)],
        "WordPiece": [
            piece
            for word in bert_words([text], True)
            for piece in all_three.wordpiece.tokenize(word)
        ],
        "Unigram": [p if known else "<unk>" for word in unigram for p, known in word],
    }


def named(token):
    """A token's bytes as a reader sees them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "".join(f"⟨{byte:02X}⟩" for byte in token)


def boundaries(all_three):
    """Of MORPHEMES, by tokenizer: tokens a word, and how many of its cuts lie where parts meet."""
    found = {}
    for name in ("BPE", "WordPiece", "Unigram"):
        tokens = right = cut = there = 0
        for line in MORPHEMES.split():
            word, parts = line.replace("|", ""), line.split("|")
            meet = {sum(map(len, parts[:k])) for k in range(1, len(parts))}
            own = [p.removeprefix("##") for p in pieces(" " + word, all_three)[name]]
            own = [p.strip(" " + MARK) for p in own]
            own = [p for p in own if p]
            at = {sum(map(len, own[:k])) for k in range(1, len(own))}
            tokens, right = tokens + len(own), right + len(meet & at)
            cut, there = cut + len(at), there + len(meet)
        n = len(MORPHEMES.split())
        found[name] = {"tokens a word": round(tokens / n, 3)}
        found[name] |= {"cuts that are right": round(right / cut, 3)}
        found[name] |= {"parts that are found": round(right / there, 3)}
    return found


def run(options, record):
    """Train the three, and measure them on words that they have not read."""
    words = spoken(documentation("train").text)
    made = train(words)
    found = {
        "bpe": [[a.hex(), b.hex()] for a, b in made.bpe.merges],
        "wordpiece": list(made.wordpiece.vocab),
        "unigram": [[piece, round(score, 4)] for piece, score in made.unigram.scores.items()],
        "boundaries": boundaries(made),
    }
    record.write_whole(found)
