"""Small generated tasks with a known answer: what a model must carry, count, reverse or read.

Each takes `generator`: a seed (the same seed, the same data) or a CPU `torch.Generator`, which
moves on with each call. All tensors are on the CPU; tokens are int64. Each raises TypeError or
ValueError that names the argument.
"""

import datetime
import random

import torch

from llmbook.checks import wholes
from llmbook.losses import IGNORED
from llmbook.seeds import as_generator

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def first_token_recall(batch, length, n_classes=4, generator=0):
    """Name the first token after `length - 1` distractors: a dependency as long as the sequence.

    inputs: (batch, length) int64: first token in [0, n_classes), the others in
    [n_classes, 2·n_classes), so 2·n_classes symbols; targets: (batch,) int64, the first token.
    Chance is 1 / n_classes.
    """
    wholes(1, batch=batch, length=length)
    wholes(2, n_classes=n_classes)
    generator = as_generator(generator)
    targets = torch.randint(n_classes, (batch,), generator=generator)
    inputs = torch.randint(n_classes, 2 * n_classes, (batch, length), generator=generator)
    inputs[:, 0] = targets
    return inputs, targets


def copy_task(batch, length, delay=0, n_symbols=8, generator=0):
    """Repeat `length` symbols after `delay` blanks, when the marker comes.

    Tokens: 0 blank, 1 marker, 2 … n_symbols + 1 symbols. A row: `length` symbols, `delay` blanks,
    the marker, `length` blanks; its targets: blank up to the marker, then the symbols in order.
    inputs, targets: (batch, 2·length + delay + 1) int64. Each symbol is needed length + delay + 1
    steps after it was read. A model that remembers nothing has a cross-entropy of
    length·ln(n_symbols) / (2·length + delay + 1). Source: Hochreiter and Schmidhuber (1997), in
    the form of Arjovsky et al. (2016).
    """
    wholes(1, batch=batch, length=length)
    wholes(0, delay=delay)
    wholes(2, n_symbols=n_symbols)
    symbols = torch.randint(2, n_symbols + 2, (batch, length), generator=as_generator(generator))
    inputs = torch.zeros(batch, 2 * length + delay + 1, dtype=torch.int64)
    targets = torch.zeros_like(inputs)
    inputs[:, :length] = symbols
    inputs[:, length + delay] = 1
    targets[:, -length:] = symbols
    return inputs, targets


def adding_problem(batch, length, generator=0):
    """Add the two marked numbers of a sequence, one in each half.

    inputs: (batch, length, 2) float32: a number uniform in [0, 1), and 1 where it is marked;
    targets: (batch,) float32, the sum. Always answering 1 has a mean squared error of 1/6.
    Source: Hochreiter and Schmidhuber (1997).
    """
    wholes(1, batch=batch)
    wholes(2, length=length)
    generator, half = as_generator(generator), length // 2
    rows = torch.arange(batch)
    numbers = torch.rand(batch, length, generator=generator)
    first = torch.randint(half, (batch,), generator=generator)
    second = torch.randint(half, length, (batch,), generator=generator)
    marks = torch.zeros(batch, length)
    marks[rows, first] = marks[rows, second] = 1.0
    inputs = torch.stack([numbers, marks], dim=-1)
    return inputs, numbers[rows, first] + numbers[rows, second]


def reversal(batch, length, n_symbols=10, generator=0):
    """Write a sequence backwards: targets[b, t] = inputs[b, length - 1 - t].

    inputs, targets: (batch, length) int64 in [0, n_symbols). Chance is 1 / n_symbols.
    """
    wholes(1, batch=batch, length=length)
    wholes(2, n_symbols=n_symbols)
    inputs = torch.randint(n_symbols, (batch, length), generator=as_generator(generator))
    return inputs, inputs.flip(1)


def anbn(batch, max_n, min_n=1, generator=0):
    """Next-token prediction on aⁿbⁿ: from the first b on, a model that counts knows every token.

    Tokens: 0 start and end, 1 a, 2 b. A row is 0 aⁿ bⁿ 0 with n uniform in [min_n, max_n]; inputs
    are its tokens but the last, targets its tokens but the first. Rows shorter than the longest
    possible are filled with 0 in inputs and IGNORED (-100) in targets.
    inputs, targets: (batch, 2·max_n + 1) int64. The targets that n decides are those where
    `inputs == 2`; a row is accepted when all of those are right. Source: Gers and Schmidhuber
    (2001).
    """
    wholes(1, batch=batch, max_n=max_n, min_n=min_n)
    if min_n > max_n:
        raise ValueError(f"min_n must not exceed max_n: got min_n={min_n}, max_n={max_n}")
    n = torch.randint(min_n, max_n + 1, (batch, 1), generator=as_generator(generator))
    position = torch.arange(2 * max_n + 2)
    tokens = torch.zeros(batch, len(position), dtype=torch.int64)
    tokens[(position >= 1) & (position <= n)] = 1
    tokens[(position > n) & (position <= 2 * n)] = 2
    targets = tokens[:, 1:].clone()
    targets[position[1:] > 2 * n + 1] = IGNORED
    return tokens[:, :-1].clone(), targets


# How people write a date. Numbers alone are day first with dots and month first with slashes, the
# German and the American way, so that every form has one reading.
_FORMATS = (
    "{day} {month} {year}",
    "{day} {mon} {year}",
    "{month} {day}, {year}",
    "{mon} {day}, {year}",
    "{month} {day}{th}, {year}",
    "the {day}{th} of {month}, {year}",
    "{day}{th} {month} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday}, {month} {day}, {year}",
    "{wkd} {day} {mon} {year}",
    "{wkd}, {mon} {day}{th} {year}",
    "{weekday} the {day}{th} of {month} {year}",
    "{day}.{m}.{year}",
    "{dd}.{mm}.{year}",
    "{m}/{day}/{year}",
    "{mm}/{dd}/{year}",
    "{year}/{mm}/{dd}",
    "{year} {mon} {day}",
    "{day}-{mon}-{year}",
    "{mon}. {day}, {year}",
)


def dates(n, generator=0, first_year=1900, last_year=2099):
    """Dates as people write them, in twenty forms, with their ISO form: n pairs `(human, iso)`.

    For example ("the 3rd of March, 1998", "1998-03-03"); a third of them in small letters. Days
    are uniform in [first_year, last_year]; the weekday, where written, is right. The ISO form
    has 10 characters, the human one at most 36, all ASCII.
    """
    wholes(1, n=n, first_year=first_year, last_year=last_year)
    if not first_year <= last_year <= 9999 or first_year < 1000:
        raise ValueError(
            "first_year and last_year must be in order and from 1000 to 9999: "
            f"got first_year={first_year}, last_year={last_year}"
        )
    generator = as_generator(generator)
    first = datetime.date(first_year, 1, 1).toordinal()
    last = datetime.date(last_year, 12, 31).toordinal()
    ordinals = torch.randint(first, last + 1, (n,), generator=generator).tolist()
    forms = torch.randint(len(_FORMATS), (n,), generator=generator).tolist()
    small = (torch.randint(3, (n,), generator=generator) == 0).tolist()
    pairs = []
    for ordinal, form, lower in zip(ordinals, forms, small):
        date = datetime.date.fromordinal(ordinal)
        human = _write(date, _FORMATS[form])
        pairs.append((human.lower() if lower else human, date.isoformat()))
    return pairs


def _write(date, form):
    month, weekday = _MONTHS[date.month - 1], _DAYS[date.weekday()]
    teen = 11 <= date.day <= 13
    ending = "th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
    return form.format(
        day=date.day,
        dd=f"{date.day:02}",
        m=date.month,
        mm=f"{date.month:02}",
        year=date.year,
        month=month,
        mon=month[:3],
        weekday=weekday,
        wkd=weekday[:3],
        th=ending,
    )


# A small invented language beside English. Nouns have a gender, which only the dictionary tells;
# articles and adjectives take it over, with number and case; the verb goes last.
_NOUNS = {
    "cat": "kat:f",
    "dog": "hun:m",
    "bird": "av:f",
    "horse": "kaval:m",
    "child": "nen:m",
    "woman": "dam:f",
    "king": "rek:m",
    "girl": "fil:f",
    "fox": "vulp:f",
    "wolf": "lup:m",
    "teacher": "mestr:m",
    "queen": "regin:f",
    "tree": "arb:m",
    "house": "kas:f",
    "river": "flum:m",
    "boat": "nav:f",
}
_PLURALS = {"child": "children", "woman": "women", "fox": "foxes", "wolf": "wolves"}
_ADJECTIVES = {
    "small": "pet",
    "big": "gran",
    "red": "ruz",
    "white": "blank",
    "young": "jun",
    "black": "ner",
    "quick": "rap",
    "quiet": "tas",
}
_VERBS = {  # base form: past form, stem in the other language, takes an object
    "see": ("saw", "vid", True),
    "hear": ("heard", "aud", True),
    "find": ("found", "trov", True),
    "follow": ("followed", "seg", True),
    "love": ("loved", "am", True),
    "carry": ("carried", "port", True),
    "sleep": ("slept", "dorm", False),
    "sing": ("sang", "kant", False),
    "run": ("ran", "kur", False),
    "wait": ("waited", "sper", False),
}
_PLACES = {"near": "pres", "behind": "tras", "under": "sub"}
_LINKS = {"because": "kar", "while": "dum", "when": "kand"}
_AGREEMENT = {"m": "-o", "f": "-a", "ms": "-i", "fs": "-e"}  # gender, s in the plural
_TENSES = {"present": "-ar", "past": "-ir", "future": "-or"}  # and "an" for a plural subject


def translation(n, generator=0, clauses=2):
    """English sentences and their translation: n triples `(english, translated, alignment)`.

    The other language is invented. Its verb comes last in the clause, adjectives follow their
    noun in mirrored order, "near the house" becomes "the house near", and there is no word for "a"
    and "some". A stem and its ending are two tokens; endings begin with "-". Articles and
    adjectives agree with their noun in gender, number and case (n for an object), the verb with
    its subject in number. The gender is to be learnt with the word.

        the small dogs saw a red bird   l -i hun -us pet -i av -um ruz -an vid -iran

    Both are strings of tokens with blanks between. alignment: for each token of the translation a
    tuple of the places of the English words that decide it; for an adjective's ending that is the
    noun. A sentence has 1 to `clauses` clauses of 3 to 15 English words, with a link between two.
    """
    wholes(1, n=n, clauses=clauses)
    rng = random.Random(int(torch.randint(2**62, (1,), generator=as_generator(generator))))
    return [_sentence(rng, rng.randint(1, clauses)) for _ in range(n)]


def _sentence(rng, clauses):
    english, translated = [], []  # words; tokens with the places of the words that decide them
    for i in range(clauses):
        if i:
            link = rng.choice(list(_LINKS))
            translated.append((_LINKS[link], (len(english),)))
            english.append(link)
        _clause(rng, english, translated)
    tokens, alignment = zip(*translated, strict=True)
    return " ".join(english), " ".join(tokens), list(alignment)


def _clause(rng, english, translated):
    subject, subject_at, plural = _noun_phrase(rng, english, "")
    base = rng.choice(list(_VERBS))
    past, stem, takes_object = _VERBS[base]
    tense = rng.choice(list(_TENSES))
    tense_at = len(english)
    if tense == "future":
        english += ["will", base]
    elif tense == "past":
        english.append(past)
    else:
        third = base[:-1] + "ies" if base.endswith("y") else base + "s"
        english.append(base if plural else third)
    verb_at = len(english) - 1
    object_ = _noun_phrase(rng, english, "n")[0] if takes_object else []
    where = []
    if rng.random() < 0.25:
        place = rng.choice(list(_PLACES))
        english.append(place)
        at = len(english) - 1
        where = [*_noun_phrase(rng, english, "")[0], (_PLACES[place], (at,))]
    ending = _TENSES[tense] + ("an" if plural else "")
    verb = [(stem, (verb_at,)), (ending, (subject_at, tense_at))]
    translated += subject + where + object_ + verb


def _noun_phrase(rng, english, case):
    """Append an English noun phrase; return its translation, the noun's place, and if plural."""
    noun, plural = rng.choice(list(_NOUNS)), rng.random() < 0.5
    definite = rng.random() < 0.6
    article_at = len(english)
    english.append("the" if definite else "some" if plural else "a")
    adjectives = rng.sample(list(_ADJECTIVES), rng.choices((0, 1, 2), (5, 4, 2))[0])
    english += [*adjectives, _PLURALS.get(noun, noun + "s") if plural else noun]
    at = len(english) - 1
    stem, _, gender = _NOUNS[noun].partition(":")
    ending = (_AGREEMENT[gender + "s" * plural] + case, (at,))
    out = [("l", (article_at,)), ending] if definite else []
    out += [(stem, (at,)), ("-u" + ("s" if plural else "") + ("m" if case else ""), (at,))]
    for place in range(at - 1, article_at, -1):  # the nearest adjective first
        out += [(_ADJECTIVES[english[place]], (place,)), ending]
    return out, at, plural
