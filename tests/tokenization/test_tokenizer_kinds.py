"""`load` reads the files of every family, in the layouts that are published: the library's ids."""

import base64
import json
import random

import pytest
from helpers.tokenization_subject import AWKWARD, LANGUAGES, charsmap, corpus  # noqa: F401 - a fixture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from llmbook.tokenization import BPETokenizer, load
from llmbook.tokenization.charsmap import CharacterMap
from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS
from llmbook.tokenization.starts import Unknown, start_ids
from llmbook.tokenization.text_bpe import TextBPE

TEXTS = st.one_of(AWKWARD, st.text("Hé ▁猫<0x>\n\u0301", max_size=12))
ROUGH = (
    LANGUAGES + "Hello hello  HELLO 1234 don't<|endoftext|> <s>x</s> [MASK] ﬁ ① \u0301 ▁a\n\n  \t"
)


def agree(path, text=ROUGH):
    """Load a file: ids and decoded text are the library's, also after writing. Returns it."""
    library, ours = Tokenizer.from_file(str(path)), load(path)
    again = Tokenizer.from_str(ours.to_json())

    @given(TEXTS)
    @example(text)
    @example("")
    @settings(max_examples=50, deadline=None, derandomize=True)
    def same(text):
        ids = library.encode(text).ids
        bare = library.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids == again.encode(text).ids
        assert ours.encode(text, add_special_tokens=False) == bare
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids, True) == library.decode(ids) == again.decode(ids)

    same()
    return ours


def written(tokenizer, folder, change=lambda whole: None):
    whole = json.loads(tokenizer.to_str() if hasattr(tokenizer, "to_str") else tokenizer.to_json())
    change(whole)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(whole), "utf-8")
    return path


@pytest.fixture(scope="module")
def byte_level():
    return BPETokenizer.train(LANGUAGES + "Hello hello world 1234 " * 40, 400)


# --- byte-level BPE


def hub_gpt2(whole):  # as the library wrote it before 0.9
    whole["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    for key in ("type", "byte_fallback", "ignore_merges"):
        whole["model"].pop(key)
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]


def empty_template(whole):  # as transformers 5 writes every GPT-2
    a, b = ({"Sequence": {"id": i, "type_id": n}} for n, i in enumerate("AB"))
    whole["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [a],
        "pair": [a, b],
        "special_tokens": {},
    }


def roberta(whole):
    whole["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    names = {"sep": ["<|endoftext|>", 0], "cls": ["!", 1]}
    whole["post_processor"] = {
        "type": "RobertaProcessing",
        "trim_offsets": True,
        "add_prefix_space": True,
    } | names


def smollm(whole):
    digits = {"type": "Digits", "individual_digits": True}
    whole["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, whole["pre_tokenizer"]],
    }


def llama3(whole):
    template = processors.TemplateProcessing(
        single="! $A", pair="! $A ! $B", special_tokens=[("!", 1)]
    )
    parts = [processors.ByteLevel(trim_offsets=False), template]
    whole["post_processor"] = {
        "type": "Sequence",
        "processors": [json.loads(p.__getstate__()) for p in parts],
    }
    split = pre_tokenizers.Split(Regex(LIBRARY_PATTERNS["gpt4"]), "isolated")
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    whole["pre_tokenizer"] = json.loads(pre_tokenizers.Sequence(parts).__getstate__())
    whole["model"]["ignore_merges"] = True
    whole["model"]["merges"].pop(3)  # a token that no merge makes any more


def gpt4o(whole):
    llama3(whole)
    whole["post_processor"] = None
    whole["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed", invert=True)


def two_merges_for_one(whole):
    merges = whole["model"]["merges"]
    long = next(a + b for a, b in merges if len(a + b) == 4)
    merges.append([long[:1], long[1:]]) if long[1:] in whole["model"]["vocab"] else None
    merges.append(list(merges[0]))  # and one twice


def without_bytes(whole):
    for name in ("Å", "ç", "Ń", "x"):
        used = any(name in pair[0] + pair[1] for pair in whole["model"]["merges"])
        if not used and name in whole["model"]["vocab"]:
            del whole["model"]["vocab"][name]


def with_unknown(whole):
    without_bytes(whole)
    whole["model"].update(unk_token="<|endoftext|>", fuse_unk=True)


def truncated(whole):
    whole["truncation"] = {
        "direction": "Left",
        "max_length": 9,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    whole["padding"] = {"strategy": {"Fixed": 12}, "direction": "Left", "pad_to_multiple_of": None}
    whole["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}


LAYOUTS = {
    "GPT-2 on the hub": hub_gpt2,
    "GPT-2 by transformers 5": empty_template,
    "no use_regex": lambda whole: whole["pre_tokenizer"].pop("use_regex"),
    "no model.type": lambda whole: whole["model"].pop("type"),
    "no added_tokens": lambda whole: whole.pop("added_tokens"),
    "one in a Sequence": lambda whole: whole.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [whole["pre_tokenizer"]]},
        decoder={"type": "Sequence", "decoders": [whole["decoder"]]},
    ),
    "an empty normalizer": lambda w: w.update(normalizer={"type": "Sequence", "normalizers": []}),
    "NFC": lambda whole: whole.update(normalizer={"type": "NFC"}),
    "NFKC": lambda whole: whole.update(normalizer={"type": "NFKC"}),
    "a space in front": lambda whole: whole["pre_tokenizer"].update(add_prefix_space=True),
    "RoBERTa": roberta,
    "SmolLM": smollm,
    "Llama 3": llama3,
    "GPT-4o": gpt4o,
    "two merges for one token": two_merges_for_one,
    "not all bytes": without_bytes,
    "not all bytes, unknown": with_unknown,
    "a gap in the ids": lambda whole: whole["model"]["vocab"].update({"ĠĠĠĠĠĠĠĠĠĠĠĠĠĠ": 450}),
    "a token that is no bytes": lambda whole: whole["model"]["vocab"].update({"猫": 400}),
    "cut off and filled up": truncated,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_level_file_in_any_published_layout_is_read(byte_level, tmp_path, name):
    path = written(byte_level, tmp_path, LAYOUTS[name])
    ours = agree(path)
    assert isinstance(ours, BPETokenizer)
    assert BPETokenizer.load(tmp_path).encode(ROUGH) == ours.encode(ROUGH)


def test_the_size_counts_gaps_and_an_id_of_no_token_gives_nothing(byte_level, tmp_path):
    ours = load(written(byte_level, tmp_path, LAYOUTS["a gap in the ids"]))
    assert ours.vocab_size == len(ours) == 451
    assert ours.decode([450, 449, 5]) == ours.fast().decode([450, 449, 5])
    with pytest.raises(ValueError, match="from 0 to 450: got 451"):
        ours.decode([451])


def test_a_stranger_cannot_call_the_tokens_around_a_text(byte_level, tmp_path):
    ours = load(written(byte_level, tmp_path, roberta))
    assert ours.encode("a", ()) == ours.encode("a") and ours.encode("<|endoftext|>", ())[1:-1] != [
        0
    ]


# --- BPE with bytes to fall back on


def llama2(fuse=True, lacking=None):
    letters = ["▁", *"helowrdHtaniscv.,1234▁"]
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        *dict.fromkeys(letters),
    ]
    merges = [
        ("l", "l"),
        ("h", "e"),
        ("▁", "he"),
        ("o", "r"),
        ("▁he", "ll"),
        ("▁", "▁"),
        ("▁▁", "▁▁"),
    ]
    names += [a + b for a, b in merges]
    if lacking:
        names.remove(lacking)
    vocab = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = DECODER
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


DECODER = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("lacking", [None, "<0xE7>"])
def test_bpe_with_bytes_to_fall_back_on_is_read(tmp_path, fuse, lacking):
    ours = agree(written(llama2(fuse, lacking), tmp_path))
    assert not isinstance(ours, BPETokenizer)
    with pytest.raises(
        ValueError, match="tokenizer.json: not byte-level BPE: pre_tokenizer is null"
    ):
        BPETokenizer.load(tmp_path)


def test_words_are_merged_apart_only_where_no_token_goes_on_with_a_mark(tmp_path):
    path = written(llama2(), tmp_path)
    assert load(path).model._apart
    whole = json.loads(path.read_text("utf-8"))
    whole["model"]["vocab"]["o▁"] = 900
    whole["model"]["merges"].insert(0, ["o", "▁"])
    path.write_text(json.dumps(whole), "utf-8")
    assert not load(path).model._apart
    agree(path, "hello hello  o▁o o")


@pytest.mark.parametrize("ignore", [False, True])
def test_a_token_that_no_merges_make_is_found_only_where_merges_are_ignored(tmp_path, ignore):
    path = written(llama2(), tmp_path)
    whole = json.loads(path.read_text("utf-8"))
    whole["model"]["vocab"]["▁hehe"] = 900
    whole["model"]["ignore_merges"] = ignore
    path.write_text(json.dumps(whole), "utf-8")
    ours = agree(path, "hehe")
    assert (900 in ours.encode("hehe")) == ignore


def test_what_a_bpe_of_characters_remembers_stays_small(tmp_path, monkeypatch):
    path = written(llama2(), tmp_path)
    texts, found = [f"hello {a}{b}" for a in "abcdefgh" for b in "ijklmnop"], []
    for most in (1000, 20):
        monkeypatch.setattr("llmbook.tokenization.text_bpe.KEPT_WORDS", most)
        ours = load(path)
        found.append([ours.encode(text) for text in texts])
        assert ours.model._apart and (len(ours.model._words) < 30) == (most == 20)
    assert found[0] == found[1]
    kept = len(ours.model._words)
    monkeypatch.setattr("llmbook.tokenization.text_bpe.KEPT_WORDS", kept)
    ours.encode("never said before")  # as many as may be kept are kept
    assert len(ours.model._words) > kept


def test_an_unknown_token_must_be_a_token():
    with pytest.raises(ValueError, match="vocab must hold the unknown token '<unk>'"):
        TextBPE({"a": 0, "b": 1}, [], Unknown("<unk>"))
    assert TextBPE({"a": 0, "<unk>": 1}, [], Unknown("<unk>")).ids_of("ab") == [0, 1]


def test_a_new_mistral_keeps_the_space_for_the_beginning(tmp_path):
    def change(whole):
        whole["normalizer"] = None
        whole["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        }

    agree(written(llama2(), tmp_path, change), "<s>hello<s> hello hello")


# --- WordPiece


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_is_read(tmp_path, corpus, lowercase):
    from tokenizers import trainers

    bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    bert.pre_tokenizer, bert.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=special, show_progress=False
    )
    bert.train_from_iterator([corpus[:60_000], LANGUAGES], trainer)
    bert.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    ours = agree(written(bert, tmp_path), ROUGH + "x" * 101 + corpus[-5_000:])
    assert ours.special_tokens["[MASK]"] == 4


# --- Unigram

REPLACED = {
    "ﬁ": "fi",
    "①": "1",
    "\t": " ",
    "\n": " ",
    "\r\n": "N",
    "e\u0301": "é",
    "é": "e",
    "\u00a0": " ",
    "ｈ": "h",
    "\u3000": "",
    "猫猫": "x",
}


@given(
    st.lists(
        st.sampled_from(
            [*REPLACED, *"ehé", "\u0301", "\r", "猫", "\u200d", "\u0600", "h\u0301\u0302"]
        ),
        max_size=9,
    )
)
@example(["ｈ", "\u0301"])
@example(["\u0600", "e\u0301"])
@example(["e", "\u0301", "\u0301"])
@example(["\r", "\n"])
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_precompiled_table_replaces_as_in_the_library(parts):
    table = charsmap(REPLACED)
    ours = CharacterMap.from_base64(base64.b64encode(table).decode())
    text = "".join(parts)
    assert ours(text) == normalizers.Precompiled(table).normalize_str(text)


def test_unless_told_each_unknown_character_is_one_unknown_token():
    vocab = {"?": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3}
    assert start_ids("éxa", vocab, Unknown("?")) == [0, 0, 1]
    assert start_ids("xya", vocab, Unknown("?", fuse_unk=True)) == [0, 1]
    assert start_ids("éa", vocab, Unknown("?", byte_fallback=True)) == [2, 3, 1]
    assert start_ids("éa", vocab, Unknown()) == [1]


def test_the_value_of_another_text_is_no_way_into_the_table():
    units = [0] * 512
    units[0] = 256 << 10  # "a" leads to place 256 ^ 97: a value, whose lowest byte is 97 as well
    units[256 ^ ord("a")] = 1 << 31 | 1 << 8 | ord("a")
    packed = b"".join(unit.to_bytes(4, "little") for unit in units)
    table = len(packed).to_bytes(4, "little") + packed + b"x\0"
    assert normalizers.Precompiled(table).normalize_str("a") == "a"
    assert CharacterMap.from_base64(base64.b64encode(table).decode())("a") == "a"


def t5(scores, pre_tokenizer, normalizer, unk_id=2, **model):
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id, **model))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def pieces(seed=0):
    g = random.Random(seed)
    words = {
        w[i:j]
        for w in (f"▁{w}" for w in LANGUAGES.split()[:40])
        for i in range(4)
        for j in range(i + 1, i + 5)
    }
    return [(w, -g.uniform(2, 12)) for w in sorted(filter(None, words))]


SPLITS = {
    "T5": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    "mT5": pre_tokenizers.Metaspace(),
}


@pytest.mark.parametrize("name", SPLITS)
def test_t5_and_mt5_are_read(tmp_path, name):
    normalizer = normalizers.Precompiled(charsmap(REPLACED))
    if name == "mT5":
        normalizer = normalizers.Sequence([normalizer, normalizers.Replace(Regex(" {2,}"), " ")])
    ours = agree(written(t5(pieces(), SPLITS[name], normalizer), tmp_path))
    assert ours.encode("The cat") == [*ours.encode("The cat", add_special_tokens=False), 1]


def test_unigram_with_bytes_to_fall_back_on_is_read(tmp_path):
    scores = [*pieces(), *((f"<0x{b:02X}>", -15.0) for b in range(256))]
    agree(written(t5(scores, SPLITS["mT5"], None, byte_fallback=True), tmp_path))
    agree(written(t5(scores[:-1], SPLITS["mT5"], None, byte_fallback=True), tmp_path))


# --- what cannot be read


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w["model"].update(type="WordLevel"), "model.type is 'WordLevel'"),
        (lambda w: w["model"].update(unk_id=None), "unk_id must be a place"),
        (lambda w: w["model"].update(unk_id=99999), "unk_id must be a place"),
        (lambda w: w["model"].update(byte_fallback=3), "byte_fallback must be"),
        (lambda w: w["model"]["vocab"].append(["a"]), "must hold .text, score."),
        (lambda w: w["model"]["vocab"].append(["▁", "x"]), "must hold .text, score."),
        (lambda w: w["model"]["vocab"].append(["▁The", 0]), "holds a piece twice"),
        (lambda w: w["model"].update(type="BPE"), "vocab must be an object|merges must be a list"),
        (lambda w: w["model"].update(type="WordPiece"), "vocab must be an object|unknown token"),
        (lambda w: w.update(decoder={"type": "CTC"}), "decoder.type is 'CTC'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_file_and_part(tmp_path, change, words):
    path = written(t5(pieces(), SPLITS["T5"], None), tmp_path, change)
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_damaged_word_piece_is_refused(tmp_path):
    whole = {
        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0}, "max_input_chars_per_word": "9"}
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="max_input_chars_per_word '9'"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
