"""Decoding: the cache changes nothing, beams find the best text, top-p is as enumerated."""

import itertools
import math

import pytest
import torch
from torch import nn

from llmbook.decoding import beam_search, generate, probabilities
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.transformer import Transformer, TransformerConfig


def translator(vocab_size=19, **sizes):
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size,
        24,
        3,
        d_ff=40,
        n_encoder_layers=2,
        n_decoder_layers=2,
        placement="pre",
        tied=False,
        **sizes,
    )
    return sharpened(Transformer(config))


def gpt(vocab_size=17):
    torch.manual_seed(0)
    return sharpened(GPT(GPTConfig(vocab_size, 40, 24, 2, 3, tied=False)))


def sharpened(model):
    """Weights so large that predictions differ from place to place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5 if parameter.ndim > 1 else 1.0)
    return model.eval()


def padded(rows, side="left", pad=0):
    width = max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    ids = [f + r if side == "left" else r + f for f, r in zip(fill, rows)]
    keep = [
        [0] * len(f) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(f)
        for f, r in zip(fill, rows)
    ]
    return torch.tensor(ids), torch.tensor(keep)


ROWS = [[5, 9, 3, 11, 4], [7, 3], [12, 5, 8]]
WAYS = [
    {},
    {"temperature": 1.3, "seed": 3},
    {"temperature": 0.8, "top_k": 4, "seed": 1},
    {"temperature": 1.1, "top_p": 0.7, "seed": 2},
    {"beams": 3, "length_penalty": 0.6},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [gpt, translator])
def test_cached_equals_uncached_and_a_seed_gives_the_same_text(build, way):
    model = build()
    ids, keep = padded(ROWS)
    cached = generate(model, ids, keep, max_new_tokens=9, eos_id=2, **way)
    plain = generate(model, ids, keep, max_new_tokens=9, eos_id=2, use_cache=False, **way)
    assert torch.equal(cached, plain)
    assert len({tuple(row[-4:]) for row in cached.tolist()}) > 1, "the rows should differ"


@pytest.mark.parametrize("way", [WAYS[0], WAYS[4]])
@pytest.mark.parametrize("build", [gpt, translator])
def test_a_padded_row_gets_the_text_that_it_gets_alone(build, way):
    model = build()
    together = generate(model, *padded(ROWS), max_new_tokens=8, eos_id=2, pad_id=0, **way)
    for i, row in enumerate(ROWS):
        alone = generate(model, torch.tensor([row]), max_new_tokens=8, eos_id=2, pad_id=0, **way)
        begin = 1 if build is translator else len(row)
        new = alone[0, begin:].tolist()
        got = together[i, 1 if build is translator else len(ROWS[0]) :].tolist()
        assert got[: len(new)] == new and set(got[len(new) :]) <= {0}


def test_a_source_may_be_padded_on_either_side():
    model = translator()
    left, right = (
        generate(model, *padded(ROWS, side), max_new_tokens=8) for side in ("left", "right")
    )
    assert torch.equal(left, right)


def test_greedy_takes_the_likeliest_token_and_equals_transformers():
    transformers = pytest.importorskip("transformers")
    ours = gpt()
    config = transformers.GPT2Config(
        vocab_size=17,
        n_positions=40,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        tie_word_embeddings=False,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        copy_into_gpt2(ours, theirs)
    ids, keep = padded(ROWS)
    torch.testing.assert_close(
        ours(ids, keep)[:, -1],
        theirs(ids, attention_mask=keep, position_ids=(keep.cumsum(-1) - 1).clamp(min=0)).logits[
            :, -1
        ],
        atol=1e-4,
        rtol=0,
    )
    want = theirs.generate(ids, attention_mask=keep, do_sample=False, max_new_tokens=12)
    got = generate(ours, ids, keep, max_new_tokens=12, eos_id=2, pad_id=0)
    assert torch.equal(got, want)
    beams = theirs.generate(
        ids,
        attention_mask=keep,
        do_sample=False,
        max_new_tokens=6,
        num_beams=3,
        length_penalty=0.0,
        early_stopping="never",
    )
    assert torch.equal(
        generate(ours, ids, keep, max_new_tokens=6, beams=3, eos_id=2, pad_id=0), beams
    )


def copy_into_gpt2(ours, theirs):
    """Our weights in GPT-2's names: matrices transposed, biases as they are."""
    body = theirs.transformer
    body.wte.weight.copy_(ours.tokens.weight)
    body.wpe.weight.copy_(ours.positions.weight)
    for mine, block in zip(ours.blocks, body.h, strict=True):
        for norm, other in ((mine.norm1, block.ln_1), (mine.norm2, block.ln_2)):
            other.weight.copy_(norm.weight)
            other.bias.copy_(norm.bias)
        block.attn.c_attn.weight.copy_(mine.attention.in_proj_weight.T)
        block.attn.c_attn.bias.copy_(mine.attention.in_proj_bias)
        for layer, other in (
            (mine.attention.out_proj, block.attn.c_proj),
            (mine.ffn.up, block.mlp.c_fc),
            (mine.ffn.down, block.mlp.c_proj),
        ):
            other.weight.copy_(layer.weight.T)
            other.bias.copy_(layer.bias)
    body.ln_f.weight.copy_(ours.norm.weight)
    theirs.lm_head.weight.copy_(ours.head.weight)
    body.ln_f.bias.copy_(ours.norm.bias)


# --- sampling


def test_top_k_and_top_p_are_what_enumeration_says():
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = 2 * torch.randn(7, generator=g)
        for temperature, k, p in ((1.0, None, 0.6), (0.7, 3, None), (1.4, 5, 0.8), (1.0, 1, 0.01)):
            weights = [math.exp(v / temperature) for v in logits.tolist()]
            order = sorted(range(7), key=lambda i: -weights[i])[:k]
            whole, kept = sum(weights[i] for i in order), []
            for i in order:  # the smallest set of likeliest tokens that reaches p
                kept.append(i)
                if p is not None and sum(weights[j] for j in kept) >= p * whole:
                    break
            share = sum(weights[i] for i in kept)
            want = torch.tensor([weights[i] / share if i in kept else 0.0 for i in range(7)])
            got = probabilities(logits, temperature, k, p)
            torch.testing.assert_close(got, want)
            assert [i for i in range(7) if got[i] > 0] == sorted(kept)


def test_ties_keep_exactly_k_and_at_least_one():
    p = probabilities(torch.zeros(3, 6), top_k=4)
    assert ((p > 0).sum(-1) == 4).all() and torch.allclose(p.sum(-1), torch.ones(3))
    p = probabilities(torch.tensor([50.0, 0, 0]), top_p=1e-9)
    assert p.tolist() == [1.0, 0.0, 0.0]
    assert (probabilities(torch.zeros(4), top_p=0.5) > 0).sum() == 2


class Fixed(nn.Module):
    """A decoder-only model that says the same at every step."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids, attention_mask=None, *, cache=None):
        return self.logits.expand(*input_ids.shape, -1)

    def new_cache(self, batch, max_len):
        return []


def test_samples_come_as_often_as_their_probability():
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, -3.0])
    model, rows = Fixed(logits), torch.zeros(400, 1, dtype=torch.int64)
    text = generate(model, rows, max_new_tokens=50, temperature=0.8, top_k=4, seed=5)[:, 1:]
    share = torch.bincount(text.flatten(), minlength=5) / text.numel()
    torch.testing.assert_close(share, probabilities(logits, 0.8, 4), atol=0.012, rtol=0)
    assert share[4] == 0
    again, other = (
        generate(model, rows, max_new_tokens=5, temperature=1.0, seed=s) for s in (5, 6)
    )
    assert torch.equal(again, generate(model, rows, max_new_tokens=5, temperature=1.0, seed=5))
    assert not torch.equal(again, other)


# --- beam search


def log_probabilities(model, source, texts, start=1):
    """log p(text | source) of the encoder–decoder model for every text, without a cache."""
    width = max(map(len, texts))
    ids = torch.tensor([[start, *t, *[0] * (width - len(t))] for t in texts])
    with torch.no_grad():
        log_p = model(source.expand(len(texts), -1), ids[:, :-1]).double().log_softmax(-1)
    each = log_p.gather(-1, ids[:, 1:, None])[..., 0]
    return [row[: len(t)].sum().item() for row, t in zip(each, texts)]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_with_as_many_beams_as_texts_beam_search_is_brute_force(alpha):
    model, most, eos = translator(5), 3, 2
    texts = [
        t
        for n in range(1, most + 1)
        for t in itertools.product(range(5), repeat=n)
        if eos not in t[:-1] and (t[-1] == eos or n == most)
    ]
    found = 0
    for source in ([[3, 4]], [[4, 4, 3, 4]], [[3]]):
        source = torch.tensor(source)
        scores = {
            t: log_p / ((5 + len(t)) / 6) ** alpha
            for t, log_p in zip(texts, log_probabilities(model, source, texts))
        }
        best = max(scores, key=scores.get)
        got = beam_search(
            model, source, beams=len(texts), max_new_tokens=most, length_penalty=alpha
        )
        assert tuple(got[0, 1:].tolist()) == best
        greedy = generate(model, source, max_new_tokens=most)[0, 1:].tolist()
        found += scores[best] > scores[tuple(greedy)] + 1e-6
    assert alpha == 0 or found, "greedy should miss the best text somewhere"


class Table(nn.Module):
    """Decoder-only: the next token depends on the last one alone, by a table of probabilities."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows).log())

    def forward(self, input_ids, attention_mask=None, *, cache=None):
        return self.table[input_ids]

    def new_cache(self, batch, max_len):
        return []


def test_two_beams_find_what_greedy_misses():
    # 0 start, 1 the tempting turn, 2 the better road, 3 the end.
    model = Table(
        [
            [1e-9, 0.55, 0.45, 1e-9],
            [0.3, 0.3, 0.3, 0.1],
            [1e-9, 1e-9, 0.1, 0.9],
            [0.25, 0.25, 0.25, 0.25],
        ]
    )
    start = torch.tensor([[0], [0]])
    assert generate(model, start, max_new_tokens=2, eos_id=3)[0].tolist()[1] == 1
    best = generate(model, start, max_new_tokens=2, beams=2, eos_id=3)
    assert best.tolist() == [[0, 2, 3]] * 2


def test_a_length_penalty_of_0_prefers_the_short_and_a_large_one_the_long():
    model = Table([[0.1, 0.6, 0.3, 1e-9], [1e-9, 0.55, 1e-9, 0.45], [0.25] * 4, [0.25] * 4])
    start = torch.tensor([[0]])
    lengths = [
        generate(model, start, max_new_tokens=6, beams=4, eos_id=3, length_penalty=a).shape[1] - 1
        for a in (0.0, 3.0)
    ]
    assert lengths[0] == 2 and lengths[1] > 2


def test_the_search_goes_on_while_a_longer_text_can_still_win():
    # After two steps two texts have ended; with α = 3 the one of five tokens beats both.
    model = Table([[1e-9, 0.33, 0.33, 0.34], [1e-9, 0.55, 1e-9, 0.45], [0.25] * 4, [0.25] * 4])
    got = beam_search(
        model, torch.tensor([[0]]), beams=2, max_new_tokens=5, eos_id=3, length_penalty=3.0
    )
    assert got[0, 1:].tolist() in ([1, 1, 1, 1, 3], [1, 1, 1, 1, 1])


def test_the_length_penalty_is_the_paper_s():
    # "3" has the probability 0.37, "1 2 3" 0.2: divided by 1 and by (8/6)^α
    model = Table(
        [[1e-9, 0.6, 0.03, 0.37], [0.2, 0.22, 0.58, 1e-9], [0.2, 0.12, 0.1, 0.58], [0.25] * 4]
    )
    turn = math.log(math.log(0.6 * 0.58**2) / math.log(0.37)) / math.log(8 / 6)
    for alpha, text in ((turn - 0.02, [3]), (turn + 0.02, [1, 2, 3])):
        got = beam_search(
            model, torch.tensor([[0]]), beams=4, max_new_tokens=3, eos_id=3, length_penalty=alpha
        )
        assert got[0, 1:].tolist() == text


# --- ends, modes, errors


def test_rows_stop_at_eos_and_are_filled_with_padding():
    model = translator()
    ids, keep = padded(ROWS)
    free = generate(model, ids, keep, max_new_tokens=10, eos_id=-1)
    eos = int(free[0, 3])
    got = generate(model, ids, keep, max_new_tokens=10, eos_id=eos, pad_id=0)
    for row, whole in zip(got.tolist(), free.tolist()):
        if eos in row:
            end = row.index(eos)
            assert row[: end + 1] == whole[: end + 1] and set(row[end + 1 :]) <= {0}
    assert got[:, 0].tolist() == [1, 1, 1] and eos in got[0].tolist()
    all_end = Fixed(torch.tensor([0.0, 0.0, 9.0]))
    assert generate(all_end, ids[:, :1], max_new_tokens=10, eos_id=2).shape[1] == 2


def test_dropout_is_off_while_generating_and_on_again_afterwards():
    model = translator(dropout=0.5).train()
    ids, _ = padded(ROWS)
    a, b = (generate(model, ids, max_new_tokens=6) for _ in range(2))
    assert torch.equal(a, b) and model.training
    assert not generate(model, ids, max_new_tokens=2).requires_grad


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1: got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0: got -1.0"),
        ({"temperature": math.nan}, "temperature must be at least 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be a whole number"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p must be above 0 and at most 1: got 1.5"),
        ({"top_p": 0.9}, "set temperature above 0"),
        ({"beams": 2, "temperature": 1.0}, "beam search does not sample"),
        ({"length_penalty": -0.5}, "length_penalty must be at least 0"),
        ({"max_new_tokens": 40}, "max_len must be at most the model's 40: got 44"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(gpt(), padded(ROWS)[0], **wrong)


def test_shapes_that_do_not_fit_are_refused():
    model, (ids, keep) = gpt(), padded(ROWS, "right")
    with pytest.raises(ValueError, match="padded on the left"):
        generate(model, ids, keep)
    with pytest.raises(ValueError, match=r"input_ids' shape \(3, 5\): got \(3, 4\)"):
        generate(model, ids, keep[:, 1:])
    for bad in (ids[0], ids.float(), ids[:, :0]):
        with pytest.raises(ValueError, match="int64"):
            generate(model, bad)
    nameless = translator()
    nameless.config = None
    with pytest.raises(ValueError, match="start_id must be given"):
        generate(nameless, ids, keep)
