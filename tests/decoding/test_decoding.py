"""Decoding: the cache changes nothing, beams find the best text, rows end where they should."""

import itertools
import math

import pytest
import torch
from helpers.decoding_subject import Fixed, Table, padded, sharpened
from torch import nn

from llmbook.decoding import beam_search, generate, stream
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


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3], WAYS[4]])
@pytest.mark.parametrize("build", [gpt, translator])
def test_autocast_and_half_precision_cache_in_their_own_dtype(build, way):
    model = build()
    ids, keep = padded(ROWS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached = generate(model, ids, keep, max_new_tokens=6, **way)
        plain = generate(model, ids, keep, max_new_tokens=6, use_cache=False, **way)
        cache = model.new_cache(2, 5)
    assert torch.equal(cached, plain)
    assert cache[0].keys.dtype == torch.bfloat16
    assert model.new_cache(2, 5)[0].keys.dtype == torch.float32
    half = model.bfloat16()
    cached = generate(half, ids, keep, max_new_tokens=6, **way)
    assert torch.equal(cached, generate(half, ids, keep, max_new_tokens=6, use_cache=False, **way))


class Wrapper(nn.Module):
    """What DistributedDataParallel shows of its model: the call, and `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[4]])
@pytest.mark.parametrize("build", [gpt, translator])
def test_a_compiled_or_wrapped_model_writes_the_same(build, way):
    model, (ids, keep) = build(), padded(ROWS)
    want = generate(model, ids, keep, max_new_tokens=4, **way)
    with torch.compiler.set_stance("force_eager"):  # the wrapper is asked, nothing is compiled
        for other in (torch.compile(model), Wrapper(model), Wrapper(torch.compile(model))):
            assert torch.equal(generate(other, ids, keep, max_new_tokens=4, **way), want)


@pytest.mark.slow
@pytest.mark.parametrize("build", [gpt, translator])
def test_a_model_compiled_in_earnest_writes_the_same(build):
    model, (ids, keep) = build(), padded(ROWS)
    want = generate(model, ids, keep, max_new_tokens=4)
    compiled = torch.compile(model, backend="eager", dynamic=True)
    assert torch.equal(generate(compiled, ids, keep, max_new_tokens=4), want)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[4]])
def test_a_source_is_read_once(way):
    model, read = translator(), []
    ids, keep = padded(ROWS)
    model.encoder[0].register_forward_pre_hook(lambda *a: read.append(1))
    generate(model, ids, keep, max_new_tokens=6, **way)
    assert len(read) == 1


def test_unless_told_four_beams_go_on():
    model, read = translator(), []
    model.decoder[0].register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0])))
    beam_search(model, torch.tensor([[4, 5, 6]]), max_new_tokens=4)
    assert max(read) == 4


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


def test_an_end_counts_only_among_the_best_beginnings():
    # The end, third of all beginnings, would be likelier than any text of two beams.
    model = Table([[1e-9, 0.5, 0.3, 0.2], [1e-9, 0.34, 0.33, 0.33], [0.25] * 4, [0.25] * 4])
    for beams, text in ((2, [1, 1]), (3, [3])):
        got = beam_search(model, torch.tensor([[0]]), beams=beams, max_new_tokens=2, eos_id=3)
        assert got[0, 1:].tolist() == text


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
    model.encoder[0].eval()
    ids, _ = padded(ROWS)
    a, b = (generate(model, ids, max_new_tokens=6) for _ in range(2))
    assert torch.equal(a, b) and model.training and model.decoder[0].training
    assert not model.encoder[0].training, "a part that was frozen stays so"
    assert not generate(model, ids, max_new_tokens=2).requires_grad


def test_a_stream_is_the_text_token_by_token_and_may_be_left():
    model, (ids, keep) = gpt(), padded(ROWS)
    model.train()
    how = {"max_new_tokens": 7, "eos_id": 2, "temperature": 1.2, "seed": 8}
    want = generate(model, ids, keep, **how)[:, 5:]
    assert torch.equal(torch.stack(list(stream(model, ids, keep, **how)), 1), want)
    for i, token in enumerate(stream(model, ids, keep, **how)):
        assert torch.equal(token, want[:, i]) and not token.requires_grad
        assert torch.is_grad_enabled(), "what is done between two tokens is the caller's"
        if i == 2:
            break
    assert model.training
    with pytest.raises(ValueError, match="beams must be 1 to stream"):
        stream(model, ids, keep, beams=2)
    with pytest.raises(ValueError, match="max_new_tokens"):
        stream(model, ids, keep, max_new_tokens=0)  # at once, not at the first token


def test_a_generator_as_seed_moves_on():
    model, (ids, keep) = gpt(), padded(ROWS)
    dice = torch.Generator().manual_seed(3)
    how = {"max_new_tokens": 6, "temperature": 1.5}
    first, second = (generate(model, ids, keep, seed=dice, **how) for _ in range(2))
    assert torch.equal(first, generate(model, ids, keep, seed=3, **how))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("how", [{}, {"beams": 3}, {"temperature": 1.0}])
def test_a_grammar_as_processor_is_kept(how):
    model, (ids, keep) = gpt(), padded(ROWS)

    def rising(logits, tokens):  # each token above the last, 16 is the last there is
        allowed = torch.arange(17) >= (tokens[:, -1:] + 1).clamp(max=16)
        return logits.masked_fill(~allowed, -math.inf)

    got = generate(model, ids, keep, max_new_tokens=8, processors=[rising], **how)
    assert all(b > a or a == b == 16 for row in got[:, 4:].tolist() for a, b in zip(row, row[1:]))
    with pytest.raises(ValueError, match="processors must leave every row a token"):
        nothing = [lambda logits, tokens: logits - math.inf]
        generate(model, ids, keep, max_new_tokens=2, processors=nothing, **how)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1: got 0"),
        ({"temperature": -1.0}, "temperature must be a number at least 0: got -1.0"),
        ({"temperature": math.nan}, "temperature must be a number at least 0: got nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be a whole number"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be a number above 0 and at most 1"),
        ({"temperature": 1.0, "min_p": 1.0}, "min_p must be a number at least 0 and below 1"),
        ({"temperature": 1.0, "min_p": -0.1}, "min_p must be a number at least 0 and below 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a number above 0: got 0.0"),
        (
            {"temperature": 1.0, "top_p": 1.5},
            "top_p must be a number above 0 and at most 1: got 1.5",
        ),
        ({"top_p": 0.9}, "set temperature above 0"),
        ({"beams": 2, "temperature": 1.0}, "beam search does not sample"),
        ({"length_penalty": -0.5}, "length_penalty must be a number at least 0"),
        ({"max_new_tokens": 40}, "max_len=40 tokens: got 5 [+] 40 [−] 1 = 44"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(gpt(), padded(ROWS)[0], **wrong)


def test_shapes_that_do_not_fit_are_refused():
    model, (ids, keep) = gpt(), padded(ROWS, "right")
    with pytest.raises(ValueError, match="padded on the left"):
        generate(model, ids, keep)
    with pytest.raises(
        ValueError, match=r"attention_mask must be \(batch=3, tokens=5\): got .*3, 4"
    ):
        generate(model, ids, keep[:, 1:])
    for bad in ([[1, 2]], [ids], ids.float(), ids.int()):
        with pytest.raises(TypeError, match="input_ids must be"):
            generate(model, bad)
    with pytest.raises(ValueError, match="input_ids must be int64"):
        generate(model, ids[0])
    for empty in (ids[:, :0], ids[:0]):
        with pytest.raises(ValueError, match="input_ids must be .* at least one of each"):
            generate(model, empty)
    for odd in (-1, 17):
        with pytest.raises(ValueError, match=f"input_ids must be from 0 to .*= 16: got {odd}"):
            generate(model, ids.masked_fill(ids == 3, odd))
    for bad in (None, sum, [3]):
        with pytest.raises(TypeError, match="processors must be a list of functions: got"):
            generate(model, ids, max_new_tokens=2, processors=bad)
    with pytest.raises(TypeError, match="use_cache must be True or False: got None"):
        generate(model, ids, max_new_tokens=2, use_cache=None)
    with pytest.raises(TypeError, match="seed"):
        generate(model, ids, seed="0")
    for wrong in (2.0, "2", [2, 3.0]):
        with pytest.raises(TypeError, match="eos_id must be a whole number"):
            generate(model, ids, eos_id=wrong)


def test_a_start_token_must_be_known():
    model, (ids, keep) = translator(), padded(ROWS)
    model.config = None
    with pytest.raises(ValueError, match="start_id must be given"):
        generate(model, ids, keep)


def test_a_model_must_say_whether_it_reads_a_source():
    with pytest.raises(TypeError, match="model must say reads_source.* got Linear without"):
        generate(nn.Linear(2, 2), torch.tensor([[1]]))


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_prompt_longer_than_the_context_is_refused_before_any_work(use_cache):
    calls, model = [], gpt()
    model.register_forward_hook(lambda *a: calls.append(1))
    for length, new in ((41, 1), (36, 6)):
        with pytest.raises(ValueError, match="max_len=40"):
            generate(model, torch.ones(1, length).long(), max_new_tokens=new, use_cache=use_cache)
    assert not calls
    assert generate(model, torch.ones(1, 36).long(), max_new_tokens=5).shape == (1, 41)
