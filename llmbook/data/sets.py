"""Readers for the larger real sets: from a verified file to plain Python values.

Each fetches its files when they are not at hand (`llmbook.data.fetch`) and raises ValueError,
naming file and line, where a line is not as the format says.
"""

import csv
import gzip
import json

from llmbook.checks import one_of
from llmbook.data.downloads import fetch


def tiny_shakespeare():
    """Forty thousand lines of Shakespeare's plays as one string: 1.1 million characters."""
    return fetch("tinyshakespeare.txt").read_text(encoding="utf-8")


def multi30k(split="train"):
    """English and German captions, `[(english, german), …]`: 29,000, 1,014 and 1,000 pairs.

    `split`: `"train"`, `"validation"` or `"test"` (the Flickr test set of 2016).
    """
    stem = _choose(split, train="train", validation="val", test="test_2016_flickr")
    english = _lines(fetch(f"multi30k.{stem}.en.gz"))
    german = _lines(fetch(f"multi30k.{stem}.de.gz"))
    if len(english) != len(german):
        raise ValueError(
            f"multi30k.{stem}: the two languages must have as many lines: "
            f"got {len(english)} English and {len(german)} German"
        )
    return list(zip(english, german))


def sst2(split="train"):
    """Sentences of film reviews, `[(sentence, label), …]`: label 1 is positive, 0 is negative.

    `split`: `"train"` (6,920), `"validation"` (872) or `"test"` (1,821).
    """
    path = fetch(f"sst2.{_choose(split, train='train', validation='dev', test='test')}.tsv")
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        sentence, _, label = line.rpartition("\t")
        if not sentence or label not in ("0", "1"):
            raise _malformed(path, number, "sentence<TAB>0 or 1", line)
        rows.append((sentence, int(label)))
    return rows


def wnut17(split="train"):
    """Sentences with named entities, `[(tokens, tags), …]`: two lists of strings of equal length.

    Tags: `O`, or `B-` (first token) or `I-` (a later one) with corporation, creative-work, group,
    location, person or product. `split`: `"train"` (3,394), `"validation"` (1,009) or `"test"`
    (1,287).
    """
    path = fetch(f"wnut17.{_choose(split, train='train', validation='dev', test='test')}.conll")
    sentences, tokens, tags = [], [], []
    for number, line in enumerate([*_lines(path), ""], start=1):
        if line.strip():
            token, _, tag = line.partition("\t")
            if not token.strip() or not (tag == "O" or tag.startswith(("B-", "I-"))):
                raise _malformed(path, number, "token<TAB>O, B-… or I-…", line)
            tokens.append(token)
            tags.append(tag)
        elif tokens:
            sentences.append((tokens, tags))
            tokens, tags = [], []
    return sentences


def instructions():
    """1,100 tasks: dictionaries with `instruction`, `input` (may be empty) and `output`."""
    return _records(fetch("instruction-data.json"), ("instruction", "input", "output"))


def preferences():
    """1,100 tasks with two answers: `instruction`, `input`, `output`, `chosen` and `rejected`."""
    keys = ("instruction", "input", "output", "chosen", "rejected")
    return _records(fetch("instruction-data-with-preference.json"), keys)


def isoflops():
    """72 trainings at nine budgets: `parameters`, `compute_budget` (FLOPs) and `final_loss`.

    Within a budget the losses lie so near to a curve that they look computed, not trained.
    """
    keys = ("parameters", "compute_budget", "final_loss")
    return _records(fetch("cs336.isoflops.json"), keys, (int, float), "numbers")


def emergence():
    """Base models by training compute, one task under two measures: dictionaries, sorted.

    `model`, `family`, `flops`; `match` and `bleu`: share of words transliterated exactly, and BLEU
    from 0 to 1, of the same answers; `addition`: share of sums of three digits that are right.
    Models whose compute or answers are not listed are left out. Source: Ruan et al. 2024.
    """
    compute = {
        row["Model"]: row
        for row in csv.DictReader(_lines(fetch("obsscaling.benchmarks.csv")))
        if row["FLOPs (1E21)"]
    }
    path, found = fetch("obsscaling.emergent.csv"), []
    keys = {
        "match": ("ipa_transliterate_2_exact_match", 1),
        "bleu": ("ipa_transliterate_2_bleu", 100),
        "addition": ("arithmetic_3da_2_acc", 1),
    }
    for number, row in enumerate(csv.DictReader(_lines(path)), start=2):
        known = compute.get(row["Model"])
        if known is None or not all(row[column] for column, _ in keys.values()):
            continue
        try:
            scores = {key: float(row[column]) / top for key, (column, top) in keys.items()}
        except ValueError as error:
            raise _malformed(path, number, "numbers", row["Model"]) from error
        flops = 1e21 * float(known["FLOPs (1E21)"])
        found.append(
            {"model": row["Model"], "family": known["Model Family"], "flops": flops, **scores}
        )
    return sorted(found, key=lambda row: row["flops"])


def _choose(split, **files):
    return files[one_of("split", split, files)]


def _lines(path):
    """Lines of a text file, gzipped or not, split at newlines alone (never at U+2028)."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return text.removesuffix("\n").split("\n")


def _records(path, keys, kind=str, kinds="strings"):
    records = json.loads(path.read_text(encoding="utf-8"))
    for number, record in enumerate(records, start=1):
        right = all(isinstance(value, kind) for value in record.values())
        if set(record) != set(keys) or not right:
            expected = ", ".join(keys)
            raise ValueError(f"{path}, record {number}: expected {kinds} {expected}, got {record}")
    return [{key: record[key] for key in keys} for record in records]


def _malformed(path, number, expected, line):
    return ValueError(f"{path}, line {number}: expected {expected}, got {line[:80]!r}")
