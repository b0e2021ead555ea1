"""What a model is pretrained on: texts damaged in four ways, and what it has to say about them.

    masked tokens     (BERT)  15% of the tokens chosen: 80% → [MASK], 10% → any token, 10% kept
    next sentence     (BERT)  [CLS] a [SEP] b [SEP]: does b follow a, or is it from elsewhere?
    span corruption   (T5)    each span → a sentinel; the target names them and spells them out
    denoising         (BART)  spans → one mask each, sentences shuffled; the target is the text

Each `…_batch` returns the keyword arguments of a model's `loss`: `model.loss(**batch)`. Targets
are −100 where nothing is asked. Randomness comes from `generator`, a `torch.Generator` on the CPU
(the default one when None): the same seed gives the same batch. Next-token prediction needs no
damage.
"""

import torch

from llmbook import checks
from llmbook.data.packing import pad
from llmbook.losses import IGNORED

# --- masked tokens


def mask_tokens(ids, *, mask_id, vocab_size, special_ids=(), share=0.15, generator=None):
    """Hide tokens as BERT does: (input_ids, targets), both int64 (batch, tokens).

    In every row round(share · candidates) tokens are chosen, at least one; candidates are all
    tokens but those in special_ids (padding, [CLS], [SEP]). Of the chosen, 80% become mask_id, 10%
    any token of the vocabulary, and 10% stay: targets hold what they were. A row without
    candidates asks nothing. Source: Devlin et al. 2019, appendix A.1.
    """
    checks.token_ids("ids", ids)
    checks.share("share", share, zero=False, one=False)
    candidate = torch.ones_like(ids, dtype=torch.bool)
    for special in special_ids:
        candidate &= ids != special
    available = candidate.sum(1)
    wanted = (available * share).round().long().clamp(min=1).minimum(available)
    draw = torch.rand(ids.shape, generator=generator).to(ids.device)
    # Each token's place in the random order of its row, candidates first
    rank = draw.masked_fill(~candidate, 2.0).argsort(1).argsort(1)
    chosen = rank < wanted[:, None]

    fate = torch.rand(ids.shape, generator=generator).to(ids.device)
    anything = torch.randint(vocab_size, ids.shape, generator=generator).to(ids.device)
    inputs = ids.masked_fill(chosen & (fate < 0.8), mask_id)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, inputs)
    return inputs, ids.masked_fill(~chosen, IGNORED)


def masked_batch(
    texts, *, mask_id, pad_id, vocab_size, special_ids=(), share=0.15, generator=None
):
    """A batch for `BertForMaskedLM.loss` from lists of token ids; see `mask_tokens`."""
    ids, attention_mask = pad(texts, pad_id)
    inputs, targets = mask_tokens(
        ids,
        mask_id=mask_id,
        vocab_size=vocab_size,
        share=share,
        special_ids={*special_ids, pad_id},
        generator=generator,
    )
    return {"input_ids": inputs, "targets": targets, "attention_mask": attention_mask}


# --- next sentence


def sentence_pairs(documents, n, *, generator=None):
    """Draw n pairs (a, b, is_random): is_random 0 where b follows a, 1 where it is from elsewhere.

    documents: lists of sentences, each a list of token ids; a is drawn from those that have a
    successor, and half of the time b is a sentence of another document. Raises ValueError with
    fewer than two documents, or when no document has two sentences.
    """
    starts = [(d, s) for d, sentences in enumerate(documents) for s in range(len(sentences) - 1)]
    if len(documents) < 2 or not starts or not all(documents):
        raise ValueError(
            "documents must be two or more, none empty, one of them with two sentences: got "
            f"{[len(sentences) for sentences in documents][:10]} sentences"
        )
    pairs = []
    for _ in range(n):
        d, s = starts[_below(len(starts), generator)]
        is_random = _below(2, generator)
        if is_random:
            other = (d + 1 + _below(len(documents) - 1, generator)) % len(documents)
            b = documents[other][_below(len(documents[other]), generator)]
        else:
            b = documents[d][s + 1]
        pairs.append((documents[d][s], b, is_random))
    return pairs


def join_pair(a, b, *, cls_id, sep_id, max_len):
    """[CLS] a [SEP] b [SEP] and its segments, 0 up to the first [SEP], then 1: two lists.

    Where they are too long for max_len, the longer of a and b loses its last token, again and
    again.
    """
    a, b = list(a), list(b)
    checks.whole("max_len", max_len, least=5)  # a token of each
    while len(a) + len(b) + 3 > max_len:
        (a if len(a) >= len(b) else b).pop()
    return [cls_id, *a, sep_id, *b, sep_id], [0] * (len(a) + 2) + [1] * (len(b) + 1)


def next_sentence_batch(
    documents,
    n,
    *,
    cls_id,
    sep_id,
    mask_id,
    pad_id,
    vocab_size,
    max_len,
    share=0.15,
    generator=None,
):
    """A batch for `BertForPreTraining.loss`: n pairs of sentences, with tokens hidden too."""
    pairs = sentence_pairs(documents, n, generator=generator)
    joined = [join_pair(a, b, cls_id=cls_id, sep_id=sep_id, max_len=max_len) for a, b, _ in pairs]
    batch = masked_batch(
        [ids for ids, _ in joined],
        mask_id=mask_id,
        pad_id=pad_id,
        vocab_size=vocab_size,
        special_ids=(cls_id, sep_id),
        share=share,
        generator=generator,
    )
    segments, _ = pad([segments for _, segments in joined], 0)
    is_random = torch.tensor([flag for *_, flag in pairs])
    return {**batch, "segment_ids": segments, "is_random": is_random}


# --- span corruption


def random_spans(length, *, share=0.15, mean_length=3.0, generator=None):
    """Spans to corrupt: [(start, end), …] in order, neither touching nor at the beginning.

    round(share · length) tokens in round(that / mean_length) spans, at least one of each and one
    token left over; every division of the tokens among spans and gaps is equally likely. T5's own
    code lets the last span end the text, so that a short text with one span always loses its end;
    here text may follow, as in the paper's example. Source: Raffel et al. 2020, section 3.1.4.
    """
    checks.share("share", share, zero=False, one=False)
    checks.whole("length", length, least=2)  # a token kept and one hidden
    hidden = min(max(round(length * share), 1), length - 1)
    n_spans = min(max(round(hidden / mean_length), 1), hidden, length - hidden)
    spans, at = [], 0
    *gaps, _ = _parts(length - hidden + 1, n_spans + 1, generator)  # the last may be 0, less 1
    for gap, span in zip(gaps, _parts(hidden, n_spans, generator), strict=True):
        spans.append((at + gap, at + gap + span))
        at += gap + span
    return spans


def corrupt_spans(ids, spans, sentinels):
    """(inputs, targets), lists: the text with a sentinel for each span, and what the spans were.

        Thank you for inviting me to your party last week
        inputs    Thank you <0> me to your party <1> week
        targets   <0> for inviting <1> last <2>

    sentinels: token ids in the order of use. The closing one is only written where text follows
    the last span. Raises ValueError for spans that overlap, touch, or outnumber the sentinels.
    """
    ids, inputs, targets, at = list(ids), [], [], 0
    tail = not spans or spans[-1][1] < len(ids)
    if len(spans) + tail > len(sentinels):
        raise ValueError(
            f"{len(spans)} spans need {len(spans) + tail} sentinels: got {len(sentinels)}"
        )
    for i, (start, end) in enumerate(spans):
        if not (at if i == 0 else at + 1) <= start < end <= len(ids):
            raise ValueError(
                f"spans must be in order, apart, and inside {len(ids)} tokens: got {spans}"
            )
        inputs += [*ids[at:start], sentinels[i]]
        targets += [sentinels[i], *ids[start:end]]
        at = end
    if tail:
        targets.append(sentinels[len(spans)])
    return inputs + ids[at:], targets


def span_batch(texts, *, sentinels, pad_id, eos_id, share=0.15, mean_length=3.0, generator=None):
    """A batch for `T5.loss` from lists of token ids; eos_id ends inputs and targets."""
    inputs, targets = [], []
    for ids in texts:
        spans = random_spans(len(ids), share=share, mean_length=mean_length, generator=generator)
        damaged, hidden = corrupt_spans(ids, spans, sentinels)
        inputs.append([*damaged, eos_id])
        targets.append([*hidden, eos_id])
    return _text_to_text(inputs, targets, pad_id)


# --- denoising


def infill(ids, *, mask_id, share=0.3, mean_length=3.0, generator=None):
    """BART's text infilling: spans of Poisson length, each replaced by one mask_id: a list.

    Spans are drawn until they hold round(share · length) tokens, the last one cut to fit; a span
    of length 0 only inserts a mask. They lie apart, in random places. How many tokens a mask
    stands for is for the model to find out. Source: Lewis et al. 2020, section 2.2.
    """
    checks.share("share", share, zero=False, one=False)
    ids = list(ids)
    hidden, lengths = round(len(ids) * share), []
    rate = torch.tensor([float(mean_length)])
    while sum(lengths) < hidden:
        drawn = int(torch.poisson(rate, generator=generator))
        lengths.append(min(drawn, hidden - sum(lengths)))
    # Places for the spans among the tokens that stay: none at the same place, so they lie apart.
    kept = len(ids) - hidden
    lengths = _merged(lengths, kept + 1)
    places = sorted(torch.randperm(kept + 1, generator=generator)[: len(lengths)].tolist())
    order = torch.randperm(len(lengths), generator=generator).tolist()
    out, at, seen = [], 0, 0
    for place, length in zip(places, (lengths[i] for i in order), strict=True):
        out += [*ids[at : at + place - seen], mask_id]
        at, seen = at + place - seen + length, place
    return out + ids[at:]


def shuffle_sentences(ids, *, end_ids, generator=None):
    """The sentences of a text in random order: a list. Each ends with a token of end_ids."""
    sentences, current = [], []
    for token in ids:
        current.append(token)
        if token in end_ids:
            sentences.append(current)
            current = []
    if current:
        sentences.append(current)
    order = torch.randperm(len(sentences), generator=generator).tolist()
    return [token for i in order for token in sentences[i]]


def denoising_batch(
    texts,
    *,
    mask_id,
    pad_id,
    bos_id,
    eos_id,
    end_ids=(),
    share=0.3,
    mean_length=3.0,
    generator=None,
):
    """A batch for `Bart.loss` from lists of token ids: sentences shuffled, then infilled.

    bos_id and eos_id stand around inputs and targets, and are never damaged. Without end_ids the
    sentences stay where they are.
    """
    inputs, targets = [], []
    for ids in texts:
        damaged = list(ids)
        if end_ids:
            damaged = shuffle_sentences(damaged, end_ids=end_ids, generator=generator)
        damaged = infill(
            damaged, mask_id=mask_id, share=share, mean_length=mean_length, generator=generator
        )
        inputs.append([bos_id, *damaged, eos_id])
        targets.append([bos_id, *ids, eos_id])
    return _text_to_text(inputs, targets, pad_id)


# --- pieces


def _text_to_text(inputs, targets, pad_id):
    input_ids, attention_mask = pad(inputs, pad_id)
    targets, _ = pad(targets, IGNORED)
    return {"input_ids": input_ids, "targets": targets, "attention_mask": attention_mask}


def _below(n, generator):
    return int(torch.randint(n, (), generator=generator))


def _parts(total, n, generator):
    """n whole numbers of at least 1 that add up to total, every such list equally likely."""
    cuts = sorted((torch.randperm(total - 1, generator=generator)[: n - 1] + 1).tolist())
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def _merged(lengths, n):
    """At most n spans: the last ones joined where there are more spans than places."""
    return lengths if len(lengths) <= n else [*lengths[: n - 1], sum(lengths[n - 1 :])]
