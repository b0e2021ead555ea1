"""The ledger of claims: every row is complete, stands alone and rests on a real reference."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "llmbook" / "book" / "ledger"
BIB = ROOT / "chapters" / "references.bib"

FIRST_IDS = set((Path(__file__).parent / "first_ids.txt").read_text("utf-8").split())
ROWS_PER_CHAPTER = {  # at least
    "recurrent": 15,
    "gradients": 11,
    "gates": 13,
    "attention": 19,
    "attention_kernels": 7,
    "multi_head": 8,
    "positional_encoding": 19,
    "transformer": 28,
    "tokenization": 5,
    "families": 21,
    "todays_decoder": 0,  # all of its rows came later
    "pretraining": 18,
    "inference": 12,
    "scaling": 10,
    "sft": 6,
    "rlhf_rewards": 5,
    "rlhf": 5,
    "rlhf_limits": 5,
    "reasoning": 2,
    "moe": 12,
    "mamba": 10,
    "inside": 4,
    "outlook": 4,
}
FIELDS = ["id", "statement", "kind", "verdict", "note", "chapter", "reference"]
VERDICTS = {"correct", "loose", "dated", "debatable", "wrong"}
KINDS = {
    "mechanism",
    "quantitative",
    "qualitative",
    "formula",
    "comparison",
    "worked-example",
    "history",
    "demo",
    "system",
    "table",
}
LEFT_BEHIND = {
    "prototype value": re.compile(r"\[\s*proto", re.I),
    "paragraph sign": re.compile("[¶§]"),
    "number of a source": re.compile(r"(?<![.,\d])00[0-4]\b(?!\s*%)"),
    "sources spoken of": re.compile(
        r"\b(?:the|these|those|this|that|both|all|some|most|two|three|five|neither|either|no|"
        r"each|one)\s+(?:of\s+)?(?:the\s+)?(?:source\s+)?(?:documents?|introductions?|sources)"
        r"\s+(?:say|says|said|omits?|leaves?|describes?|contradicts?|gives?|give|state|states|"
        r"do|does|is|are|call|calls|mention|mentions|write|writes|speak|speaks|has|have)\b"
        r"|\bthe documents?\b|\bwidgets?\b|\bvisuali[sz]er \d",
        re.I,
    ),
    "extraction": re.compile(r"\bextraction\b|\blost from\b|\bnot preserved\b", re.I),
    "empty remark": re.compile(r"^as stated\.?$", re.I),
}
TEXT_FIELDS = ("statement", "note")


def load_rows(folder=LEDGER):
    """Every row of every ledger file, with the name of its file."""
    return [
        (path.stem, row)
        for path in sorted(folder.glob("*.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def parse_bib(text):
    """Entries of a BibTeX text: a list of (kind, key, {field: value})."""
    entries = []
    for chunk in re.split(r"^(?=@)", text, flags=re.M):
        head = re.match(r"@(\w+)\s*\{\s*([^,\s]+)\s*,", chunk)
        if head:
            fields = re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", chunk, flags=re.M)
            entries.append((head[1].lower(), head[2], {k.lower(): v for k, v in fields}))
    return entries


def words(text):
    return re.findall(r"\w+", text.lower())


ROWS = load_rows()
ENTRIES = parse_bib(BIB.read_text(encoding="utf-8"))
BIB_KEYS = {key for _, key, _ in ENTRIES}


@pytest.mark.parametrize("chapter", sorted(ROWS_PER_CHAPTER))
def test_every_chapter_has_all_of_its_rows(chapter):
    rows = [row for stem, row in ROWS if stem == chapter]
    assert len(rows) >= ROWS_PER_CHAPTER[chapter]
    assert {row["chapter"] for row in rows} == {chapter}, "a row lies in another chapter's file"


def test_the_first_239_rows_stay_and_no_chapter_is_unknown():
    assert {stem for stem, _ in ROWS} == set(ROWS_PER_CHAPTER)
    assert len(FIRST_IDS) == sum(ROWS_PER_CHAPTER.values()) == 239
    assert FIRST_IDS - {row["id"] for _, row in ROWS} == set(), "an id was lost or changed"


def test_every_row_has_exactly_the_fields_of_the_schema_in_order():
    for stem, row in ROWS:
        assert [f for f in row if f != "met"] == FIELDS, (
            f"{stem}: {row.get('id')} has fields {list(row)}"
        )
        for field in [*FIELDS[:-1], *(["met"] if "met" in row else [])]:
            value = row[field]
            assert isinstance(value, str) and value == value.strip() != "", (row["id"], field)
            assert "\n" not in value and "  " not in value, (row["id"], field)
        assert isinstance(row["reference"], list), row["id"]
        assert all(isinstance(key, str) for key in row["reference"]), row["id"]


def test_ids_are_unique_and_speakable():
    ids = [row["id"] for _, row in ROWS]
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    assert [i for i in ids if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", i)] == []


def test_verdicts_and_kinds_come_from_the_vocabulary():
    assert {row["verdict"] for _, row in ROWS} <= VERDICTS
    assert {row["kind"] for _, row in ROWS} <= KINDS


def test_a_verdict_other_than_correct_rests_on_a_reference():
    bare = [r["id"] for _, r in ROWS if r["verdict"] != "correct" and not r["reference"]]
    assert bare == []


def test_every_reference_exists_in_the_bibliography_and_is_named_once():
    missing = {k: row["id"] for _, row in ROWS for k in row["reference"] if k not in BIB_KEYS}
    assert missing == {}
    assert [r["id"] for _, r in ROWS if len(set(r["reference"])) != len(r["reference"])] == []


@pytest.mark.parametrize("what", sorted(LEFT_BEHIND))
def test_nothing_of_the_sources_is_left_in_the_text(what):
    found = {
        row["id"]: match[0]
        for _, row in ROWS
        for field in TEXT_FIELDS
        if (match := LEFT_BEHIND[what].search(row[field]))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("prototype value", "at lag 40 [proto 0.22]"),
        ("paragraph sign", "as in §2.4"),
        ("number of a source", "the criterion of 003 (002 is right)"),
        ("sources spoken of", "Both documents contradict each other."),
        ("sources spoken of", "The documents leave this open."),
        ("extraction", "Its formula was lost in extraction."),
        ("empty remark", "As stated."),
    ],
)
def test_what_must_stay_behind_would_be_noticed(what, text):
    assert LEFT_BEHIND[what].search(text)


@pytest.mark.parametrize("text", ["a rate of 0.001", "1,000 steps", "10000^{2i/d}", "2000"])
def test_ordinary_numbers_are_not_taken_for_sources(text):
    assert not LEFT_BEHIND["number of a source"].search(text)


def test_a_note_adds_to_its_statement_and_does_not_repeat_it():
    for _, row in ROWS:
        statement, note = words(row["statement"]), words(row["note"])
        assert statement != note, row["id"]
        assert len(note) >= 6, f"{row['id']}: the note says too little: {row['note']!r}"


def test_sentences_are_whole():
    for _, row in ROWS:
        for field in TEXT_FIELDS:
            text = row[field]
            assert text[-1] in ".?!”)", (row["id"], field, text[-20:])
            assert text[0].isupper() or text[0] in "“$0123456789", (row["id"], field, text[:20])
            for pair in ("{}", "“”"):
                assert text.count(pair[0]) == text.count(pair[1]), (row["id"], field, pair)


def test_the_bibliography_is_sorted_and_has_no_key_twice():
    keys = [key for _, key, _ in ENTRIES]
    assert [k for k, n in Counter(keys).items() if n > 1] == []
    assert keys == sorted(keys)
    assert len(keys) == BIB.read_text(encoding="utf-8").count("\n@") + 1


def test_no_work_stands_twice_under_two_keys():
    titles = Counter((" ".join(words(f["title"])), f["year"]) for _, _, f in ENTRIES)
    assert [title for title, n in titles.items() if n > 1] == []
    eprints = Counter(f["eprint"] for _, _, f in ENTRIES if "eprint" in f)
    assert [eprint for eprint, n in eprints.items() if n > 1] == []


def test_every_entry_names_title_author_year_and_where_to_find_it():
    venues = {
        "article": "journal",
        "inproceedings": "booktitle",
        "book": "publisher",
        "techreport": "institution",
        "mastersthesis": "school",
        "phdthesis": "school",
        "incollection": "booktitle",
        "misc": "howpublished",
        "online": "url",
    }
    for kind, key, fields in ENTRIES:
        assert kind in venues, f"{key}: unknown kind {kind}"
        for needed in ("title", "author", "year", venues[kind]):
            assert fields.get(needed, "").strip(), f"{key} lacks {needed}"
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), f"{key}: year {fields['year']}"
        assert fields["author"].count("{") == fields["author"].count("}"), key
        assert fields["title"].count("{") == fields["title"].count("}"), key


def test_keys_are_built_from_author_and_year():
    for _, key, fields in ENTRIES:
        assert re.fullmatch(r"[a-z0-9]+?(19|20)\d\d[a-z0-9]*", key), key
        assert fields["year"] in key, f"{key} is dated {fields['year']}"


def test_identifiers_are_well_formed():
    for _, key, fields in ENTRIES:
        if "eprint" in fields:
            assert fields.get("archiveprefix") == "arXiv", key
            assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", fields["eprint"]), key
        if "doi" in fields:
            assert re.fullmatch(r"10\.\d{4,5}/\S+", fields["doi"]), key
        if "url" in fields:
            assert re.fullmatch(r"https?://\S+", fields["url"]), key
