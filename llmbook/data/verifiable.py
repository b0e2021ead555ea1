"""Instructions with an answer that can be checked: 28 kinds within a small model's reach.

    First word in capitals: lake bono sil     →  LAKE
    Without bono: lake bono sil               →  lake sil

Three groups. SEEN: what instruction tuning trains on. UNSEEN: never trained on, most of them two
seen kinds put together. GRADED: each with five levels of difficulty, for learning from rewards;
levels up to TRAINED_LEVELS are trained on by instruction tuning, the others are not.

An input belongs to one side for good: held out when sha256(kind, input) mod 8 = 0. So no run, with
whatever seed, trains on an input that another is examined on. Every kind has four wordings; the
last is never trained on, to see what a wording is worth.
"""

import hashlib
import random
import re
from dataclasses import dataclass

from llmbook.checks import one_of, whole
from llmbook.seeds import number

SIDES = ("train", "held-out")
LEVELS = 5
TRAINED_LEVELS = 2  # of the graded kinds: the levels that instruction tuning sees
_TRIES = 4000  # draws without a new input, after which a kind has no more


@dataclass(frozen=True)
class Example:
    """One instruction with its answer. level: of a graded kind, from 1; 0 for the others."""

    kind: str
    level: int
    instruction: str
    input: str
    answer: str

    @property
    def prompt(self):
        """What the user writes."""
        return f"{self.instruction}: {self.input}"

    @property
    def messages(self):
        """The exchange as messages with roles."""
        return [
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": self.answer},
        ]

    def check(self, text):
        """Is a text the answer? White space around it doesn't count."""
        return text.strip() == self.answer

    def well_formed(self, text):
        """Does a text at least look like an answer to this kind, a number say, right or wrong?"""
        return re.fullmatch(KINDS[self.kind].form, text.strip()) is not None


@dataclass(frozen=True)
class Kind:
    """A kind of instruction: its group, four wordings, and how one is drawn.

    draw(rng, level) → (argument, input, answer); the argument stands where a wording has {}.
    form: a regular expression that every answer of the kind matches.
    """

    name: str
    group: str
    wordings: tuple
    draw: object
    form: str


# --- what they are made of

_WORDS = (
    "ant arm bag ball bean bird boat bone book bus cake cat chair clock cloud coat cup desk "
    "dog door duck ear egg eye farm fish flag fly fork fox frog game gate goat hand hat hen "
    "hill home horn house jar key kite lake lamp leaf lion map milk moon mouse nest nut oak "
    "owl pan park pen pig pond pot rain road roof rope rose sand seed ship shoe snow sock "
    "star sun tent tiger tree van wall wolf wood"
).split()
_CONSONANTS, _VOWELS, _LETTERS = "bdfgklmnprstvz", "aeiou", "abcdefghijklmnopqrstuvwxyz"


def _word(rng):
    """A word: one of a hundred real ones, or made up of three to five letters."""
    if rng.random() < 0.3:
        return rng.choice(_WORDS)
    shape = rng.choice(("cvc", "vcv", "cvcv", "cvcvc"))
    return "".join(rng.choice(_CONSONANTS if c == "c" else _VOWELS) for c in shape)


def _words(rng, low, high):
    """Different words, from low to high of them."""
    n, found = rng.randint(low, high), []
    while len(found) < n:
        word = _word(rng)
        if word not in found:
            found.append(word)
    return found


def _of_words(low, high, answer):
    """A draw of words that an answer is made of: answer(list of words) → text."""

    def draw(rng, level):
        words = _words(rng, low, high)
        return "", " ".join(words), answer(words)

    return draw


def _quoted(text):
    return f'"{text}"'


# --- kinds with something to choose or to look up


def _without(rng, level):
    words = _words(rng, 2, 4)
    out = rng.choice(words)
    return out, " ".join(words), " ".join(word for word in words if word != out)


def _count(rng, level):
    words = _words(rng, 1, 6)
    return "", " ".join(words), str(len(words))


def _lookup(rng, level):
    keys = rng.sample(_LETTERS, rng.randint(2, 4))
    values = [str(rng.randint(0, 9)) for _ in keys]
    asked = rng.randrange(len(keys))
    return keys[asked], " ".join(map("=".join, zip(keys, values))), values[asked]


def _sum(rng, level):
    a, b = rng.randint(2, 89), rng.randint(2, 9)
    return "", f"{a} + {b}", str(a + b)


# --- graded kinds


def _add(rng, level):
    """A number of two digits and level + 1 of one digit."""
    numbers = [rng.randint(10, 49), *(rng.randint(1, 9) for _ in range(level + 1))]
    return "", " + ".join(map(str, numbers)), str(sum(numbers))


def _sort(rng, level):
    """level + 1 letters into the alphabet's order."""
    letters = rng.sample(_LETTERS, level + 1)
    return "", " ".join(letters), " ".join(sorted(letters))


def _largest(rng, level):
    """The largest of level + 1 numbers of two digits."""
    numbers = rng.sample(range(10, 100), level + 1)
    return "", " ".join(map(str, numbers)), str(max(numbers))


def _mirror(rng, level):
    """level + 2 letters in the opposite order."""
    letters = rng.choices(_LETTERS, k=level + 2)
    return "", " ".join(letters), " ".join(letters[::-1])


def _tally(rng, level):
    """How often a letter stands among 2 · level + 2 letters from a to d."""
    letters, asked = rng.choices("abcd", k=2 * level + 2), rng.choice("abcd")
    return asked, " ".join(letters), str(letters.count(asked))


def _hops(rng, level):
    """Follow `level` arrows of a chain that is given in random order."""
    chain = rng.sample(_LETTERS, level + 2)
    arrows = [f"{a}>{b}" for a, b in zip(chain, chain[1:])]
    rng.shuffle(arrows)
    return f"{chain[0]} {level}", " ".join(arrows), chain[level]


# --- the table

_WORD, _LIST, _NUMBER = r"[a-z]+", r"[a-z]+( [a-z]+)*", r"\d+"
_CAPITALS, _QUOTED = r"[A-Z]+", r'"[a-z]+( [a-z]+)*"'


def _with(wordings, ending):
    """Four wordings with words behind each."""
    return tuple(f"{words} {ending}" for words in wordings)


_ONE_OF = ("{}", "Give the {}", "Take the {}", "Only the {}")
_FIRST, _LAST, _LETTER, _END = (
    tuple(words.format(name) if i else name.capitalize() for i, words in enumerate(_ONE_OF))
    for name in ("first word", "last word", "first letter", "last letter")
)
_SWAP = ("Swap", "Swap the words", "Change places", "Swap these")
_TABLE = {
    "seen": {
        "repeat": (
            ("Repeat", "Say again", "Copy", "Repeat this"),
            _of_words(1, 4, " ".join),
            _LIST,
        ),
        "first-word": (_FIRST, _of_words(2, 4, lambda w: w[0]), _WORD),
        "capitals": (
            ("In capitals", "Write in capitals", "Put in capitals", "Now in capitals"),
            _of_words(1, 2, lambda w: " ".join(w).upper()),
            r"[A-Z]+( [A-Z]+)*",
        ),
        "last-word": (_LAST, _of_words(2, 4, lambda w: w[-1]), _WORD),
        "quotes": (
            ("In quotes", "Write in quotes", "Put in quotes", "Now in quotes"),
            _of_words(1, 2, lambda w: _quoted(" ".join(w))),
            _QUOTED,
        ),
        "first-word-capitals": (
            _with(_FIRST, "in capitals"),
            _of_words(2, 4, lambda w: w[0].upper()),
            _CAPITALS,
        ),
        "last-word-quotes": (
            _with(_LAST, "in quotes"),
            _of_words(2, 4, lambda w: _quoted(w[-1])),
            _QUOTED,
        ),
        "swap": (_SWAP, _of_words(2, 2, lambda w: " ".join(w[::-1])), _LIST),
        "swap-capitals": (
            _with(_SWAP, "in capitals"),
            _of_words(2, 2, lambda w: " ".join(w[::-1]).upper()),
            r"[A-Z]+ [A-Z]+",
        ),
        "first-letter": (_LETTER, _of_words(1, 1, lambda w: w[0][0]), r"[a-z]"),
        "first-letter-quotes": (
            _with(_LETTER, "in quotes"),
            _of_words(1, 1, lambda w: _quoted(w[0][0])),
            r'"[a-z]"',
        ),
        "without": (("Without {}", "Leave out {}", "Drop {}", "All without {}"), _without, _LIST),
        "count": (
            ("How many words", "Count the words", "Number of words", "Count words"),
            _count,
            _NUMBER,
        ),
        "lookup": (
            ("Value of {}", "What is {}", "Look up {}", "Find the value of {}"),
            _lookup,
            _NUMBER,
        ),
        "sum": (("Sum", "What is the sum", "Work out", "Give the sum"), _sum, _NUMBER),
        "backwards": (
            ("Backwards", "Write backwards", "Spell backwards", "Now backwards"),
            _of_words(1, 1, lambda w: w[0][::-1]),
            _WORD,
        ),
    },
    "unseen": {
        "last-word-capitals": (
            _with(_LAST, "in capitals"),
            _of_words(2, 4, lambda w: w[-1].upper()),
            _CAPITALS,
        ),
        "first-word-quotes": (
            _with(_FIRST, "in quotes"),
            _of_words(2, 4, lambda w: _quoted(w[0])),
            _QUOTED,
        ),
        "swap-quotes": (
            _with(_SWAP, "in quotes"),
            _of_words(2, 2, lambda w: _quoted(" ".join(w[::-1]))),
            r'"[a-z]+ [a-z]+"',
        ),
        "first-letter-capitals": (
            _with(_LETTER, "in capitals"),
            _of_words(1, 1, lambda w: w[0][0].upper()),
            r"[A-Z]",
        ),
        "backwards-capitals": (
            (
                "Backwards in capitals",
                "Write backwards in capitals",
                "Spell backwards in capitals",
                "Now backwards in capitals",
            ),
            _of_words(1, 1, lambda w: w[0][::-1].upper()),
            _CAPITALS,
        ),
        "last-letter": (_END, _of_words(1, 1, lambda w: w[0][-1]), r"[a-z]"),
    },
    "graded": {
        "add": (("Add", "Add up", "Add both", "Add these"), _add, _NUMBER),
        "sort": (("Sort", "Sort the letters", "In order", "Sort these"), _sort, r"[a-z]( [a-z])*"),
        "largest": (
            ("Largest", "Largest number", "Which is largest", "The largest"),
            _largest,
            _NUMBER,
        ),
        "mirror": (
            ("Mirror", "Mirror the letters", "From the end", "Mirror these"),
            _mirror,
            r"[a-z]( [a-z])*",
        ),
        "tally": (("How many {}", "Count {}", "Tally {}", "Count all {}"), _tally, _NUMBER),
        "hops": (("Go from {}", "Start at {}", "Follow {}", "Walk from {}"), _hops, r"[a-z]"),
    },
}
GROUPS = tuple(_TABLE)
KINDS = {
    name: Kind(name, group, *entry)
    for group, table in _TABLE.items()
    for name, entry in table.items()
}
SEEN, UNSEEN, GRADED = (tuple(_TABLE[group]) for group in GROUPS)


# --- drawing


def side_of(kind, argument, text):
    """On which side an input is, whatever the seed."""
    digest = hashlib.sha256(f"{kind}/{argument}/{text}".encode()).digest()
    return SIDES[int.from_bytes(digest[:8], "big") % 8 == 0]


def examples(kind, n, *, seed=0, side="train", level=None, wording=None):
    """n examples of a kind, a list of `Example`: the same for the same arguments.

    side: "train" or "held-out"; those held out have n different inputs, and their wordings are
    those trained on, too. level: of a graded kind, from 1 to LEVELS; None draws from the
    TRAINED_LEVELS. wording: one of the four, 0 to 3; None draws from the first three.

    Raises ValueError for an unknown kind or side, for a level of a kind that has none, and where a
    kind has fewer than n inputs held out.
    """
    kind = KINDS[one_of("kind", kind, KINDS)]
    whole("n", n, least=1)
    one_of("side", side, SIDES)
    if level is not None:
        if kind.group != "graded":
            raise ValueError(f"level must be None for {kind.name}, which has none: got {level!r}")
        whole("level", level, least=1, most=LEVELS)
    if wording is not None:
        whole("wording", wording, least=0, most=3)
    rng = random.Random(number(seed, "instructions", kind.name, side, level or 0))
    found, known, missed = [], set(), 0
    while len(found) < n:
        at = (level or rng.randint(1, TRAINED_LEVELS)) if kind.group == "graded" else 0
        words = kind.wordings[rng.randrange(3)]
        argument, text, answer = kind.draw(rng, at)
        new = side == "train" or (argument, text) not in known
        if side_of(kind.name, argument, text) != side or not new:
            missed += 1
            if missed > _TRIES:
                raise ValueError(f"n must be at most {len(known)}, {kind.name}'s inputs: got {n}")
            continue
        missed = 0
        known.add((argument, text))
        words = words if wording is None else kind.wordings[wording]
        found.append(Example(kind.name, at, words.format(argument), text, answer))
    return found


def mixture(kinds, n, *, seed=0, side="train"):
    """n examples of several kinds, as many of each (one more of the first ones), shuffled."""
    kinds = list(kinds)
    if not kinds:
        raise ValueError("kinds must name one kind or more")
    whole("n", n, least=len(kinds))
    sizes = [n // len(kinds) + (i < n % len(kinds)) for i in range(len(kinds))]
    found = [
        example
        for kind, size in zip(kinds, sizes)
        for example in examples(kind, size, seed=seed, side=side)
    ]
    random.Random(number(seed, "mixture")).shuffle(found)
    return found
