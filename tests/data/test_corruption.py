"""Pretraining objectives: worked examples, exact counts, and nothing lost for good."""

import itertools
from collections import Counter

import pytest
import torch

from llmbook.data.corruption import (
    corrupt_spans,
    denoising_batch,
    infill,
    join_pair,
    mask_tokens,
    masked_batch,
    next_sentence_batch,
    random_spans,
    sentence_pairs,
    shuffle_sentences,
    span_batch,
)
from llmbook.data.packing import pad

PAD, CLS, SEP, MASK = 0, 1, 2, 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- masked tokens


def test_a_share_of_every_row_is_chosen_and_never_a_special_token():
    ids, mask = pad([[CLS, *range(10, 10 + n), SEP] for n in (40, 7, 1, 100)], PAD)
    _, targets = mask_tokens(
        ids, mask_id=MASK, vocab_size=200, special_ids=(PAD, CLS, SEP), generator=seeded()
    )
    chosen = targets != -100
    assert chosen.sum(1).tolist() == [6, 1, 1, 15]
    assert (targets[chosen] == ids[chosen]).all() and (ids[chosen] >= 10).all()
    assert not chosen[mask == 0].any()


def test_chosen_tokens_are_masked_replaced_and_kept_8_to_1_to_1():
    ids = torch.full((400, 500), 7)
    inputs, targets = mask_tokens(ids, mask_id=MASK, vocab_size=1000, generator=seeded())
    chosen = targets != -100
    assert chosen.sum() == 400 * 75
    assert (inputs[~chosen] == 7).all()
    got = inputs[chosen]
    n = len(got)
    shares = [(got == MASK).sum() / n, (got == 7).sum() / n]
    other = got[(got != MASK) & (got != 7)]
    # five standard deviations of a share of 30,000
    assert abs(shares[0] - 0.8) < 0.012 and abs(shares[1] - 0.1) < 0.009
    assert abs(len(other) / n - 0.1) < 0.009
    assert other.min() < 20 and other.max() > 980  # any token of the vocabulary


def test_masking_is_as_frequent_as_transformers_collators():
    from transformers import DataCollatorForLanguageModeling
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    class Tokenizer(PreTrainedTokenizerBase):
        mask_token, mask_token_id, pad_token_id, pad_token = "m", MASK, PAD, "p"

        def __init__(self):
            pass

        def __len__(self):
            return 1000

        def convert_tokens_to_ids(self, token):
            return MASK

        def get_special_tokens_mask(self, ids, already_has_special_tokens):
            return [0] * len(ids)

    collator = DataCollatorForLanguageModeling(Tokenizer(), seed=0)
    torch.manual_seed(0)
    ids = torch.full((200, 500), 7)
    theirs, labels = collator.torch_mask_tokens(ids.clone(), special_tokens_mask=ids == 0)
    ours, targets = mask_tokens(ids, mask_id=MASK, vocab_size=1000, generator=seeded())
    for a, b in (
        ((theirs == MASK), (ours == MASK)),
        (labels != -100, targets != -100),
        ((theirs != 7) & (theirs != MASK), (ours != 7) & (ours != MASK)),
    ):
        assert abs(a.float().mean() - b.float().mean()) < 0.006


def test_every_candidate_is_equally_likely():
    ids = torch.arange(10, 20).repeat(5000, 1)
    _, targets = mask_tokens(ids, mask_id=MASK, vocab_size=50, share=0.3, generator=seeded())
    counts = (targets != -100).sum(0)
    assert counts.sum() == 15000 and (counts - 1500).abs().max() < 5 * (5000 * 0.21) ** 0.5


def test_a_row_without_candidates_asks_nothing():
    ids = torch.tensor([[CLS, SEP, PAD]])
    inputs, targets = mask_tokens(ids, mask_id=MASK, vocab_size=9, special_ids=(PAD, CLS, SEP))
    assert torch.equal(inputs, ids) and (targets == -100).all()


# --- next sentence

DOCUMENTS = [[[10, 11], [12], [13, 14, 15]], [[20], [21, 22]], [[30, 31, 32]]]


def test_half_of_the_pairs_follow_and_the_others_are_from_another_document():
    pairs = sentence_pairs(DOCUMENTS, 2000, generator=seeded())
    follow = {(tuple(a), tuple(b)) for d in DOCUMENTS for a, b in itertools.pairwise(d)}
    seen = set()
    for a, b, is_random in pairs:
        if is_random:
            assert a[0] // 10 != b[0] // 10
        else:
            seen.add((tuple(a), tuple(b)))
    assert seen == follow
    assert abs(sum(flag for *_, flag in pairs) - 1000) < 5 * 500**0.5
    assert {b[0] // 10 for _, b, flag in pairs if flag} == {1, 2, 3}


def test_a_pair_is_joined_as_bert_reads_it():
    ids, segments = join_pair([10, 11], [20], cls_id=CLS, sep_id=SEP, max_len=9)
    assert ids == [CLS, 10, 11, SEP, 20, SEP]
    assert segments == [0, 0, 0, 0, 1, 1]
    ids, segments = join_pair(range(10, 18), [20, 21], cls_id=CLS, sep_id=SEP, max_len=8)
    assert ids == [CLS, 10, 11, 12, SEP, 20, 21, SEP] and len(segments) == 8


def test_next_sentence_batch_is_what_bert_is_trained_on():
    from llmbook.models.bert import BertConfig, BertForPreTraining

    batch = next_sentence_batch(
        DOCUMENTS,
        6,
        cls_id=CLS,
        sep_id=SEP,
        mask_id=MASK,
        pad_id=PAD,
        vocab_size=40,
        max_len=8,
        generator=seeded(),
    )
    assert {key: tuple(value.shape) for key, value in batch.items()}["is_random"] == (6,)
    asked, real = batch["targets"] != -100, batch["attention_mask"] == 1
    assert (asked.sum(1) == 1).all() and not asked[~real].any()
    assert (batch["segment_ids"][~real] == 0).all()
    restored = torch.where(asked, batch["targets"], batch["input_ids"])
    assert ((restored == SEP).sum(1) == 2).all()
    model = BertForPreTraining(BertConfig(40, 8, 12, 1, 2, 24, dropout=0.0))
    assert model.loss(**batch).isfinite()


# --- span corruption


def test_the_papers_example():
    text = "Thank you for inviting me to your party last week".split()
    inputs, targets = corrupt_spans(text, [(2, 4), (8, 9)], ["<X>", "<Y>", "<Z>"])
    assert " ".join(inputs) == "Thank you <X> me to your party <Y> week"
    assert " ".join(targets) == "<X> for inviting <Y> last <Z>"


def restore(inputs, targets, sentinels):
    """Put the spans back where their sentinels stand."""
    spans, current = {}, None
    for token in targets:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in inputs for t in (spans[token] if token in sentinels else [token])]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 77, 512])
def test_inputs_and_targets_together_are_the_text(length):
    sentinels, ids = list(range(999, 899, -1)), list(range(length))
    for seed in range(20):
        spans = random_spans(length, generator=seeded(seed))
        inputs, targets = corrupt_spans(ids, spans, sentinels)
        assert restore(inputs, targets, set(sentinels)) == ids
        hidden = sum(end - start for start, end in spans)
        assert hidden == min(max(round(0.15 * length), 1), length - 1)
        assert len(spans) == max(round(hidden / 3), 1)
        assert inputs[0] == 0
        assert [t for t in inputs if t >= 900] == sentinels[: len(spans)]


def test_span_corruption_is_t5s_own_rule_on_the_same_noise():
    """T5's code: each run of noise → a sentinel in the inputs, each run of text in the targets."""
    for seed in range(20):
        spans = random_spans(40, share=0.3, mean_length=2, generator=seeded(seed))
        noise = [any(a <= i < b for a, b in spans) for i in range(40)]
        sides = []
        for hidden in (True, False):
            out, n = [], 0
            for i in range(40):
                if noise[i] != hidden:
                    out.append(i)
                elif i == 0 or noise[i - 1] != hidden:
                    out.append(100 + n)
                    n += 1
            sides.append(out)
        assert corrupt_spans(range(40), spans, range(100, 150)) == tuple(sides)


def test_all_divisions_into_spans_are_equally_likely():
    seen = Counter(
        tuple(random_spans(6, share=0.5, mean_length=1.5, generator=seeded(s)))
        for s in range(1200)
    )
    # 3 hidden tokens in 2 spans: 2 ways; 3 kept ones before, between and (0 or more) behind: 3
    assert len(seen) == 6 and any(spans[-1][1] == 6 for spans in seen)
    assert max(abs(n - 200) for n in seen.values()) < 5 * (1200 * 5 / 36) ** 0.5


def test_span_batch_trains_t5():
    from llmbook.models.t5 import T5, T5Config

    texts = [list(range(5, 5 + n)) for n in (30, 12)]
    batch = span_batch(texts, sentinels=range(99, 79, -1), pad_id=0, eos_id=1, generator=seeded())
    assert (batch["input_ids"] == 1).sum(1).tolist() == [1, 1]
    last = (batch["targets"] != -100).sum(1) - 1
    assert (batch["targets"].gather(1, last[:, None]) == 1).all()
    assert (batch["attention_mask"] == (batch["input_ids"] != 0)).all()
    model = T5(T5Config(100, 12, 2, 6, 24, 1, 1))
    assert model.loss(**batch).isfinite()


def test_bad_spans_are_refused():
    for spans in ([(2, 4), (4, 5)], [(3, 3)], [(3, 2)], [(4, 6), (1, 2)], [(5, 11)]):
        with pytest.raises(ValueError, match="spans must be in order, apart"):
            corrupt_spans(range(10), spans, [100, 101, 102])
    with pytest.raises(ValueError, match="2 spans need 3 sentinels: got 2"):
        corrupt_spans(range(10), [(1, 2), (4, 5)], [100, 101])
    with pytest.raises(ValueError, match="length must be a whole number of at least 2: got 1"):
        random_spans(1)
    with pytest.raises(ValueError, match="share must be a number above 0 and below 1: got 1.5"):
        random_spans(10, share=1.5)


# --- denoising


@pytest.mark.parametrize("length", [1, 2, 10, 63, 300])
def test_infilling_hides_a_share_and_keeps_the_order(length):
    ids = list(range(10, 10 + length))
    for seed in range(30):
        out = infill(ids, mask_id=MASK, generator=seeded(seed))
        kept = [t for t in out if t != MASK]
        assert len(kept) == length - round(0.3 * length)
        assert kept == sorted(kept) and set(kept) <= set(ids)
        for a, b in itertools.pairwise(out):
            assert (a, b) != (MASK, MASK)


def test_spans_have_poisson_lengths_empty_ones_too():
    lengths = Counter()
    for seed in range(60):
        out = infill(range(10, 1010), mask_id=MASK, generator=seeded(seed))
        padded = [9, *out, 1010]
        for i, token in enumerate(padded):
            if token == MASK:
                lengths[padded[i + 1] - padded[i - 1] - 1] += 1
    n = lengths.total()
    mean = sum(k * v for k, v in lengths.items()) / n
    assert abs(mean - 3) < 0.1
    assert abs(lengths[0] / n - 0.0498) < 0.015  # e^-3
    assert abs(lengths[3] / n - 0.2240) < 0.03  # e^-3 · 3³ / 3!


def test_sentences_are_shuffled_whole():
    ids = [10, 11, 9, 20, 9, 30, 31, 32, 9, 40]
    sentences = [[10, 11, 9], [20, 9], [30, 31, 32, 9], [40]]
    seen = set()
    for seed in range(300):
        out = shuffle_sentences(ids, end_ids={9}, generator=seeded(seed))
        seen.add(tuple(out))
    assert seen == {tuple(sum(order, [])) for order in itertools.permutations(sentences)}


def test_denoising_batch_trains_bart():
    from llmbook.models.bart import Bart, BartConfig

    texts = [[10, 11, 9, 12, 13, 14, 9], [20, 21, 22]]
    batch = denoising_batch(
        texts, mask_id=MASK, pad_id=1, bos_id=0, eos_id=2, end_ids={9}, generator=seeded()
    )
    assert batch["targets"].tolist() == [[0, *texts[0], 2], [0, *texts[1], 2] + [-100] * 4]
    assert (batch["input_ids"][:, 0] == 0).all() and (batch["input_ids"] == MASK).any()
    assert (batch["attention_mask"] == (batch["input_ids"] != 1)).all()
    model = Bart(BartConfig(30, 16, 12, 1, 1, 2, 2, 24, 24))
    assert model.loss(**batch).isfinite()


# --- all


def test_same_seed_same_batch():
    texts = [list(range(10, 40)), list(range(50, 60))]
    for make in (
        lambda g: masked_batch(texts, mask_id=MASK, pad_id=PAD, vocab_size=99, generator=g),
        lambda g: span_batch(texts, sentinels=range(99, 79, -1), pad_id=0, eos_id=1, generator=g),
        lambda g: denoising_batch(
            texts, mask_id=MASK, pad_id=1, bos_id=0, eos_id=2, end_ids={20, 30}, generator=g
        ),
    ):
        first, again, other = make(seeded(1)), make(seeded(1)), make(seeded(2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(
            first[key].shape != other[key].shape or not torch.equal(first[key], other[key])
            for key in first
        )


def test_bad_input_is_refused_with_what_it_was():
    with pytest.raises(TypeError, match="ids must be int64 .*float32"):
        mask_tokens(torch.zeros(2, 3), mask_id=MASK, vocab_size=9)
    with pytest.raises(ValueError, match="share must be a number above 0 and below 1: got 0"):
        mask_tokens(torch.zeros(2, 3, dtype=torch.long), mask_id=MASK, vocab_size=9, share=0)
    with pytest.raises(ValueError, match="documents must be two or more"):
        sentence_pairs([[[1], [2]]], 3)
    with pytest.raises(ValueError, match="max_len must be a whole number of at least 5: got 4"):
        join_pair([1], [2], cls_id=CLS, sep_id=SEP, max_len=4)
    with pytest.raises(ValueError, match="rows must be one or more lists"):
        pad([[1], []], PAD)


def test_what_is_hidden_unless_told_otherwise_is_what_the_papers_hide():
    ids = torch.arange(10, 210)[None].repeat(3, 1)
    _, targets = mask_tokens(ids, mask_id=MASK, vocab_size=300, generator=seeded())
    assert (targets >= 0).sum(1).tolist() == [30] * 3  # BERT: 15%
    batch = masked_batch(ids.tolist(), mask_id=MASK, pad_id=PAD, vocab_size=300)
    assert (batch["targets"] >= 0).sum(1).tolist() == [30] * 3
    spans = random_spans(200, generator=seeded())
    assert sum(end - start for start, end in spans) == 30 and len(spans) == 10  # T5: 15% in threes
    marks = list(range(500, 520))
    batch = span_batch(ids.tolist(), sentinels=marks, pad_id=PAD, eos_id=1, generator=seeded())
    assert [len(set(row) & set(marks)) for row in batch["input_ids"].tolist()] == [10] * 3
    assert batch["input_ids"].shape == (3, 200 - 30 + 10 + 1)
    kept = [t for t in infill(range(10, 210), mask_id=MASK, generator=seeded()) if t != MASK]
    assert len(kept) == 140  # BART: 30%
    batch = denoising_batch(ids.tolist(), mask_id=MASK, pad_id=PAD, bos_id=1, eos_id=2)
    assert [sum(t >= 10 for t in row) for row in batch["input_ids"].tolist()] == [140] * 3
    documents = [[[10 + i] * 40, [60 + i] * 40] for i in range(5)]
    how = dict(cls_id=CLS, sep_id=SEP, mask_id=MASK, pad_id=PAD, vocab_size=300, max_len=83)
    batch = next_sentence_batch(documents, 4, **how, generator=seeded())
    assert (batch["targets"] >= 0).sum(1).tolist() == [12] * 4  # 15% of 80, no special token
