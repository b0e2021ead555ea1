"""What a tokenizer.json may say beside its model: each step does what the library's does."""

import json

import pytest
from helpers.tokenization_subject import AWKWARD, LANGUAGES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from llmbook.tokenization import Form, normalize
from llmbook.tokenization.decoders import decoder
from llmbook.tokenization.finish import finisher
from llmbook.tokenization.pretokenize import steps
from llmbook.tokenization.tokenizer_json import byte_level_form, pattern_name

ODD = (
    "ΑΣ ΟΔΟΣ İ ǅ ﬁ ㋿ ½ \u0301a\u0345 e\u0301\u0327 \ufffd\u200d\ufeff \x85\x0b\u00ad "
    "٣٤ ⅷ² 中文 \U0001e94a¿?«a»$+"
)
TEXTS = st.one_of(
    AWKWARD, st.lists(st.sampled_from([*ODD, " ", "ab", "▁", "\t"]), max_size=12).map("".join)
)
FEW = settings(max_examples=50, deadline=None, derandomize=True)


def described(part):
    """The library's part as a file says it."""
    return json.loads(part.__getstate__())


NORMALIZERS = {
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "NFKD": normalizers.NFKD(),
    "lower": normalizers.Lowercase(),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "strip": normalizers.Strip(),
    "strip left": normalizers.Strip(right=False),
    "strip right": normalizers.Strip(left=False),
    "nmt": normalizers.Nmt(),
    "prepend": normalizers.Prepend("▁"),
    "replace": normalizers.Replace(" ", "▁"),
    "replace pattern": normalizers.Replace(Regex(r"\s{2,}|\p{Lu}"), r"\1"),
    "bert": normalizers.BertNormalizer(),
    "bert cased": normalizers.BertNormalizer(lowercase=False),
    "bert accents": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
    "bert bare": normalizers.BertNormalizer(False, False, False, False),
    "nothing": normalizers.Sequence([]),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalized_text_is_the_librarys(name):
    theirs = NORMALIZERS[name]
    ours = normalize.normalizer(described(theirs)) or (lambda text: text)

    @given(TEXTS)
    @example(LANGUAGES)
    @example(ODD)
    @FEW
    def same(text):
        assert ours(text) == theirs.normalize_str(text)

    same()


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_character_is_normalized_as_by_the_library_also_beside_marks(form):
    theirs = NORMALIZERS[form]
    for start in range(0, 0x20000, 97):  # some of each block, in sequences that may be reordered
        text = "".join(
            f"a{chr(c)}\u0323\u0301" for c in range(start, start + 12) if not 0xD7F0 < c < 0xE000
        )
        assert normalize.normal_form(form, text) == theirs.normalize_str(text)


SPLIT = pre_tokenizers.Split
PRE_TOKENIZERS = {
    "byte level": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits, then byte level with a space": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    ),
    "digits together": pre_tokenizers.Digits(),
    "punctuation": pre_tokenizers.Punctuation(),
    "punctuation before": pre_tokenizers.Punctuation("merged_with_next"),
    "white space": pre_tokenizers.Whitespace(),
    "white space split": pre_tokenizers.WhitespaceSplit(),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "metaspace": pre_tokenizers.Metaspace(),
    "metaspace first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "metaspace never": pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    "t5": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    "literal": SPLIT(" ", "merged_with_previous"),
    **{
        f"{behaviour} {invert}": SPLIT(Regex(r"\s|ab?|\p{N}+"), behaviour, invert)
        for behaviour in (
            "removed",
            "isolated",
            "merged_with_previous",
            "merged_with_next",
            "contiguous",
        )
        for invert in (False, True)
    },
    "nothing to see": SPLIT(Regex(r"(?=[A-Z])"), "isolated"),
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pieces_are_the_librarys(name):
    theirs = PRE_TOKENIZERS[name]
    ours = steps(described(theirs))
    bytes_too = "byte level" in name

    @given(TEXTS)
    @example(LANGUAGES)
    @example(ODD)
    @FEW
    def same(text):
        want = [piece for piece, _ in theirs.pre_tokenize_str(text)]
        got = ours([text] if text else [], True)
        if bytes_too:
            got = [
                piece
                for piece, _ in (
                    (
                        "".join(
                            p
                            for p, _ in pre_tokenizers.ByteLevel(
                                False, use_regex=False
                            ).pre_tokenize_str(piece)
                        ),
                        0,
                    )
                    for piece in got
                )
            ]
        assert got == want

    same()


PATTERNS = [
    r"\d+|\D",
    r"\w+|\W",
    r"\S+|\s",
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{^L}",
    r"[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lo}]+|.",
    r"[a-c\-\]\[x]+",
    r"\x{e9}|\u00e9|\x41|\n|\t",
    r"(?i:'s|ll)|(a|b)+?c{2,3}|(?<!a)b|(?<=a)b|(?>a+)b",
    r"\bab|\Bb",
    r"^a|b$|\Aa|\z|a\Z",
    r"[a[bc]]+|\P{L}",
    r"a++b|a*+|a{,2}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_mean_to_the_library(pattern):
    theirs = SPLIT(Regex(pattern), "isolated")
    ours = steps(described(theirs))
    parts = [*"abcAéx1²_ \n\t-][.", "'S", "ll", "é", "猫", "\u0301", "\u200d", "Ⅷ"]

    @given(st.lists(st.sampled_from(parts), max_size=12).map("".join))
    @FEW
    def same(text):
        assert ours([text] if text else [], True) == [p for p, _ in theirs.pre_tokenize_str(text)]

    same()


@pytest.mark.parametrize(
    "pattern, words",
    [
        (r"[a&&b]", "not understood"),
        (r"\p{Han}", "unknown"),
        (r"\p{L", "not understood"),
        (r"(?x: a)", "not understood"),
        (r"a{2}+", "not understood"),
        (r"[[:alpha:]]", "not understood"),
        (r"\R", "not understood"),
        ("[abc", "not understood"),
        ("(ab", "not understood"),
        ("\\", "not understood"),
        ("[b-a]", "not understood"),
        (5, "must be a String or a Regex"),
    ],
)
def test_a_pattern_that_is_not_understood_is_refused_by_its_place(pattern, words):
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    if pattern == 5:
        part["pattern"] = 5
    with pytest.raises(ValueError, match=words) as caught:
        steps({"type": "Sequence", "pretokenizers": [part]})
    assert "pre_tokenizer.pretokenizers[0].pattern" in str(caught.value)


DECODERS = {
    "byte level": decoders.ByteLevel(),
    "word piece": decoders.WordPiece(),
    "word piece as it is": decoders.WordPiece("##", False),
    "metaspace": decoders.Metaspace(),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "llama": decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "strip before": decoders.Strip("a", 2, 0),
    "pattern": decoders.Replace(Regex("a+"), "b"),
    "bytes": decoders.ByteFallback(),
}
TOKENS = [
    "##a",
    "##",
    "a",
    "aaa",
    "aab",
    "▁a",
    "▁",
    "▁▁b",
    "<0xE7>",
    "<0x8C>",
    "<0xAB>",
    "<0x41>",
    "Ġ",
    "Ċ",
]
TOKENS += ["é", "猫", ".", "?", "n't", "'s", "do", "not", "'", "<0xzz>", "ba"]


@pytest.mark.parametrize("name", DECODERS)
def test_decoded_text_is_the_librarys(name):
    theirs = DECODERS[name]
    ours = decoder(described(theirs))

    @given(st.lists(st.sampled_from(TOKENS), max_size=10))
    @example(["<0xE7>", "<0x8C>", "<0xAB>", "<0xE7>", "a", "<0x41>"])
    @example(["do", "not", "'", "a", "."])
    @FEW
    def same(tokens):
        assert "".join(ours(tokens)) == theirs.decode(tokens)

    same()


def test_stripping_behind_stops_where_the_token_is_empty():  # there the library panics
    strip = decoder({"type": "Strip", "content": "a", "start": 0, "stop": 2})
    assert strip(["baaa", "aba", "a", ""]) == ["ba", "ab", "", ""]


def test_without_a_decoder_a_space_stands_between_tokens():
    assert decoder(None)(["a", "b"]) == ["a b"]


def test_a_form_has_a_pattern_s_name_where_it_cuts_with_that_and_nothing_else():
    for name in ("gpt2", "gpt4"):
        own = byte_level_form(name).pre_tokenizer
        alone = {"type": "Sequence", "pretokenizers": [own]}
        more = {"type": "Sequence", "pretokenizers": [own, {"type": "Digits"}]}
        got = [pattern_name(Form(pre_tokenizer=part)) for part in (own, alone, more)]
        assert got == [name, name, None]


# --- what is set around ids, cut off, filled up

TEMPLATE = processors.TemplateProcessing(
    single="<a> $A <b> <a>", pair="<a> $A <b> $B", special_tokens=[("<a>", 0), ("<b>", 1)]
)
PROCESSORS = {
    "none": None,
    "byte level": processors.ByteLevel(),
    "bert": processors.BertProcessing(("<b>", 1), ("<a>", 0)),
    "roberta": processors.RobertaProcessing(("<b>", 1), ("<a>", 0)),
    "template": TEMPLATE,
    "sequence": processors.Sequence([processors.ByteLevel(), TEMPLATE]),
}


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_ids_are_finished_as_by_the_library(name, direction):
    library = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate("<a> <b> c d e f".split())}, "c")
    )
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if PROCESSORS[name]:
        library.post_processor = PROCESSORS[name]
    for length, pad in (
        (None, None),
        (4, None),
        (5, {}),
        (6, {"pad_to_multiple_of": 4}),
        (9, {"length": 7}),
        (None, {"length": 7}),
    ):
        library.no_truncation()
        if length:
            library.enable_truncation(length, direction=direction)
        if pad is not None:
            library.enable_padding(pad_id=5, direction=direction, **pad)
        whole = json.loads(library.to_str())
        finish = finisher(whole["post_processor"], whole["truncation"], whole["padding"])
        for text in ("", "c", "c d e", "c d e f c d e f c d e f"):
            for around in (True, False):
                ids = [2 + "cdef".index(w) for w in text.split()]
                ids = finish(ids, around) if finish else ids
                assert ids == library.encode(text, add_special_tokens=around).ids


@pytest.mark.parametrize(
    "part, words",
    [
        (
            {"type": "TemplateProcessing", "single": [], "special_tokens": {}},
            "no place for the text",
        ),
        ({"type": "TemplateProcessing", "single": [3], "special_tokens": {}}, "holds 3"),
        (
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x"}}],
                "special_tokens": {},
            },
            "not understood",
        ),
        ({"type": "BertProcessing", "cls": ["a"], "sep": ["b", 1]}, "must name tokens"),
        ({"type": "Sequence", "processors": 3}, "processors must be a list"),
        ({"type": "Sequence", "processors": [{"type": "X"}]}, r"processors\[0\].type is 'X'"),
        ([], "must be an object"),
    ],
)
def test_a_post_processor_that_is_not_understood_is_refused(part, words):
    with pytest.raises(ValueError, match=words):
        finisher(part)


@pytest.mark.parametrize(
    "part, words",
    [
        (
            {"type": "Sequence", "normalizers": [None, {"type": "X"}]},
            r"normalizers\[1\].type is 'X'",
        ),
        ({"type": "Sequence"}, "normalizers must be a list"),
        ({"type": "Replace", "pattern": {"String": "a"}}, "content must be a string"),
        ({"type": "Replace", "pattern": "a", "content": "b"}, "must be a String or a Regex"),
        ({"type": "Prepend"}, "prepend must be a string"),
        ({"type": "Precompiled", "precompiled_charsmap": "a"}, "must be base64"),
        ({"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "cut short"),
        ("NFC", "must be an object"),
    ],
)
def test_a_normalizer_that_is_not_understood_is_refused(part, words):
    with pytest.raises(ValueError, match=words):
        normalize.normalizer(part)


@pytest.mark.parametrize(
    "part, words",
    [
        ({"type": "X"}, "type is 'X'"),
        (
            {"type": "Split", "pattern": {"String": "a"}, "behavior": "X"},
            "behavior must be one of",
        ),
        ({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"}, "pattern must be"),
        ({"type": "Metaspace", "prepend_scheme": "X"}, "must have a mark and a scheme"),
        ({"type": "Sequence", "pretokenizers": 3}, "must be a list"),
        (3, "must be an object"),
    ],
)
def test_a_pre_tokenizer_that_is_not_understood_is_refused(part, words):
    with pytest.raises(ValueError, match=words):
        steps(part)


@pytest.mark.parametrize(
    "part, words",
    [
        ({"type": "X"}, "type is 'X'"),
        ({"type": "Sequence"}, "decoders must be a list"),
        ({"type": "Replace", "pattern": {"String": "a"}}, "content must be a string"),
        (3, "must be an object"),
    ],
)
def test_a_decoder_that_is_not_understood_is_refused(part, words):
    with pytest.raises(ValueError, match=words):
        decoder(part)


def test_a_form_holds_objects():
    with pytest.raises(ValueError, match="normalizer must be an object or null, got 'NFC'"):
        Form(normalizer="NFC")
