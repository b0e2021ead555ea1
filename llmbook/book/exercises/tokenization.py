"""Checks of the exercises on tokenization: short words, ties, overlaps, counts above one."""

import math

from llmbook.book.check import NotYet, agree, call, exercise


def _pair_counts(words):
    counts = {}
    for word, n in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] = counts.get(pair, 0) + n
    return counts


@exercise("tokenization/pair_counts", title="Count the pairs", difficulty=1, minutes=10)
def pair_counts(answer):
    cases = (
        {("l", "o", "w"): 5, ("l", "o", "w", "e", "r"): 2, ("s", "l", "o", "w"): 3},
        {("a", "a", "a"): 2, ("a",): 7, (): 4, ("b", "a", "b", "a"): 1},
    )
    for words in cases:
        got, want = call(answer, words), _pair_counts(words)
        if not hasattr(got, "items"):
            raise NotYet("Return a dict from a pair, such as ('l', 'o'), to its count.")
        got = {k: v for k, v in got.items() if v}
        if got == {pair: sum(zip_count(word, pair) for word in words) for pair in want}:
            raise NotYet(
                "Each word was counted once. A word that occurs 5 times holds its pairs 5 times."
            )
        if set(got) - set(want):
            odd = sorted(set(got) - set(want), key=str)[0]
            raise NotYet(f"{odd!r} is no pair of neighbours inside a word.")
        for pair, n in want.items():
            if got.get(pair, 0) != n:
                raise NotYet(
                    f"For {words} the pair {pair} should count {n}: got {got.get(pair, 0)}."
                )
    return "Right. This is all that BPE ever looks at."


def zip_count(word, pair):
    return sum(two == pair for two in zip(word, word[1:]))


@exercise("tokenization/merge", title="Merge a pair", difficulty=1, minutes=15)
def merge(answer):
    cases = [
        ([1, 2, 3, 1, 2], (1, 2), 9, [9, 3, 9]),
        ([1, 1, 1], (1, 1), 7, [7, 1]),
        ([1, 1, 1, 1, 2], (1, 1), 7, [7, 7, 2]),
        ([3, 1], (1, 2), 9, [3, 1]),
        ([], (1, 2), 9, []),
        ([1, 2, 2, 1], (2, 1), 5, [1, 2, 5]),
    ]
    for ids, pair, new, want in cases:
        got = answer(list(ids), pair, new) if callable(answer) else call(answer)
        if got is None or got is ...:
            raise NotYet("The function returns nothing yet.")
        if list(got) != want:
            raise NotYet(
                f"{ids} with {pair} → {new} should give {want}: got {list(got)}. Read "
                "from the left; a token that has been merged is used up."
            )
    return "Right, and an overlap such as 1 1 1 goes to the left."


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
        got = list(call(answer, word, merges))
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


@exercise("tokenization/share", title="What does the vocabulary cost?", difficulty=1, minutes=10)
def share(answer):
    for v, d, layers, tied in ((50257, 768, 12, True), (1000, 64, 2, False), (777, 32, 3, True)):
        table = v * d * (1 if tied else 2)
        want = table / (table + 12 * layers * d**2)
        agree(
            call(answer, v, d, layers, tied),
            want,
            "The table has vocab_size · d_model weights; untied there are two. All else: "
            "12 · layers · d_model². The share is table / (table + all else).",
            tolerance=1e-9,
        )
    return "Right. For GPT-2 small, 31%: nearly a third of it is a dictionary."
