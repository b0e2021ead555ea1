"""Checks of the exercises on tokenization: short words, ties, unknown pieces, unused tokens."""

import math

from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("tokenization/bpe", title="Encode a word", difficulty=2, minutes=25)
def bpe(answer):
    merges = [("e", "r"), ("l", "o"), ("lo", "w"), ("w", "er"), ("low", "er"), ("n", "lo")]
    cases = [
        ("lower", ["low", "er"]),
        ("nlow", ["n", "low"]),
        ("er", ["er"]),
        ("x", ["x"]),
        ("wer", ["wer"]),
        ("erer", ["er", "er"]),
        ("slowest", ["s", "low", "e", "s", "t"]),
    ]
    cases[0] = ("lower", ["lower"])
    for word, want in cases:
        got = call(answer, word, merges)
        if isinstance(got, str):
            raise NotYet(
                f"A list of tokens is expected, and for {word!r} this is a text: {got!r}."
            )
        got = list(got)
        if "".join(map(str, got)) != word:
            raise NotYet(f"The tokens of {word!r} must join to {word!r} again: got {got}.")
        if got != want:
            raise NotYet(
                f"{word!r} should become {want}: got {got}. Of all neighbours that can "
                "merge, which pair was learned first? Merge it, then look again."
            )
    late = [("b", "c"), ("a", "b"), ("ab", "c")]
    if list(call(answer, "abc", late)) != ["a", "bc"]:
        raise NotYet(
            "'abc' with the merges b+c, a+b, ab+c should give ['a', 'bc']: the order "
            "of the merges decides, not the length of the tokens or the place in the word."
        )
    return "Right. The list of merges, in order, is the whole tokenizer."


@exercise("tokenization/longest_match", title="WordPiece's way", difficulty=2, minutes=20)
def longest_match(answer):
    vocab = {"un", "una", "##aff", "##able", "##ff", "aff", "##a", "a", "##b", "u", "##n"}
    cases = [
        ("unaffable", ["una", "##ff", "##able"]),
        ("una", ["una"]),
        ("un", ["un"]),
        ("unx", ["[UNK]"]),
        ("xun", ["[UNK]"]),
        ("aff", ["aff"]),
        ("ab", ["a", "##b"]),
        ("unaable", ["una", "##able"]),
    ]
    for word, want in cases:
        got = list(call(answer, word, set(vocab)))
        if got != want:
            hint = (
                "A word that cannot be finished is unknown as a whole."
                if want == ["[UNK]"]
                else "Take the longest piece that fits here, then go on behind it; behind the "
                "start of the word pieces carry ##."
            )
            raise NotYet(f"{word!r} should become {want}: got {got}. {hint}")
    return "Right. No merges, no probabilities: only what the vocabulary holds."


@exercise(
    "tokenization/bits_per_byte", title="Compare across tokenizers", difficulty=2, minutes=15
)
def bits_per_byte(answer):
    cases = [(2.0, 1000, 3500), (3.7, 63, 77), (math.log(2), 5, 5)]
    for loss, tokens, size in cases:
        got, want = call(answer, loss, tokens, size), loss * tokens / (size * math.log(2))
        try:
            close = {
                "That is in nats: how many bits is a nat?": loss * tokens / size,
                "Upside down: more tokens for the same bytes is worse, not better.": loss
                * size
                / (tokens * math.log(2)),
                "A nat is 1 / ln 2 = 1.44 bits, so bits are the larger number.": loss
                * tokens
                / size
                * math.log(2),
            }
            for advice, wrong in close.items():
                if abs(float(got) - wrong) < 1e-9 * abs(wrong) and abs(wrong - want) > 1e-9:
                    raise NotYet(advice)
        except (TypeError, ValueError) as error:
            raise NotYet(f"A number is expected, and this is {got!r}.") from error
        agree(got, want, "Total loss of the text in nats, turned into bits, over its bytes.")
    return "Right. A fair number, whatever the tokens are."


@exercise(
    "tokenization/whole_text", title="Who loses nothing?", difficulty=1, minutes=5, kind="predict"
)
def whole_text(answer):
    names = {"bytes", "bpe", "wordpiece", "unigram"}
    if isinstance(answer, str) or not isinstance(answer, (set, frozenset, list, tuple)):
        raise NotYet('Answer with a list of names, such as ["bytes", "Unigram"].')
    got = {str(one).strip().lower() for one in answer}
    if strange := got - names:
        raise NotYet(
            f"The four are bytes, BPE, WordPiece and Unigram: got {sorted(strange)[0]!r}."
        )
    if "bytes" not in got:
        raise NotYet("Bytes are the text itself, whatever it says.")
    if "bpe" not in got:
        raise NotYet("BPE starts from the 256 bytes, and merging throws nothing away.")
    if got != {"bytes", "bpe"}:
        raise NotYet(
            "WordPiece and Unigram see words, with one space between any two, and have no piece "
            "for a character that they never read."
        )
    return "Right. What starts from bytes loses nothing."


@exercise(
    "tokenization/merge_number", title="Read the merges", difficulty=1, minutes=5, kind="figure"
)
def merge_number(answer):
    from llmbook.figures import MergeSteps

    story = (
        "the cat sat on the mat and the rat sat on the cat. the other cat thought that the rat "
        'that sat there was rather fat. "that is the fattest rat that ever sat on a cat," said '
        "the other cat to the cat under the rat, and the rat sat on and on."
    )
    steps = MergeSteps({"English": story}).merges[0]
    want = 1 + ["".join(pair[:2]) for pair in steps].index("Ġthe")
    agree(
        number(answer),
        want,
        "In the second figure choose English, begin at 0, and press Merge until the line below "
        "says that ␣ and the, or whatever was left of it, became “␣the”.",
    )
    return f"Right: merge {want}, as soon as its parts are there."


@exercise(
    "tokenization/unlearned",
    title="Find the glitch tokens",
    difficulty=2,
    minutes=20,
    kind="experiment",
)
def unlearned(answer):
    from llmbook.tokenization import BPETokenizer

    texts = ["the cat sat on the mat and the other cat sat there", "the rat is that cat's rat"]
    log = "login zephyrquill login zephyrquill"
    tokenizer = BPETokenizer.train([*texts, log, log], 256 + 1 + 40)
    for read in (texts, texts[:1], [], [log]):
        used = {i for text in read for i in tokenizer.encode(text)}
        merged = {i for token, i in tokenizer.vocab.items() if len(token) > 1}
        want = sorted(merged - used)
        got = call(answer, tokenizer, read)
        if not isinstance(got, (list, tuple, set, range)):
            raise NotYet("Return the ids as a list.")
        got = [int(i) for i in got]
        if set(got) - merged:
            odd = min(set(got) - merged)
            raise NotYet(f"{odd} is no token that a merge made: a byte, or a special token.")
        if set(got) & used:
            raise NotYet(f"{min(set(got) & used)} is used: some text of the {len(read)} has it.")
        if set(got) != set(want):
            raise NotYet(
                f"{min(set(want) - set(got))} is missing: it is merged and none of the "
                f"{len(read)} texts uses it."
            )
        if got != want:
            raise NotYet("These are the tokens; give them in the order of their ids, each once.")
    return "Right. Some of them a later merge always swallows; some were only in the other text."
