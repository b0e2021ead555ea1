"""What holds for every decoder: the cache, padding, the loss, checkpointing, the round trip.

A decoder is entered with a small model of `transformers`; what is its own stands in its own file.
"""

import copy

import pytest
import torch
from helpers.model_oracles import (
    batch,
    close,
    close_gradients,
    loaded,
    randomised,
    returned,
    transformers,
)

from llmbook.cache import StateCache
from llmbook.losses import next_token_loss
from llmbook.models.decoder import Decoder

VOCAB = 101
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}


def gpt2(library):
    sizes = {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_positions": 33}
    config = library.GPT2Config(vocab_size=VOCAB, eos_token_id=0, bos_token_id=0, **sizes)
    return library.GPT2LMHeadModel(config)


def untied_gpt2(library):
    sizes = {"n_embd": 21, "n_head": 3, "n_layer": 1, "n_positions": 33, "n_inner": 37}
    config = library.GPT2Config(
        vocab_size=VOCAB, tie_word_embeddings=False, layer_norm_epsilon=1e-3, **sizes
    )
    return library.GPT2LMHeadModel(config)


def llama(library):
    return library.LlamaForCausalLM(library.LlamaConfig(**LLAMA, num_key_value_heads=2))


def biased_llama(library):
    changes = {"hidden_size": 21, "num_attention_heads": 3, "num_key_value_heads": 1}
    changes |= {"head_dim": 10, "tie_word_embeddings": True, "attention_bias": True}
    return library.LlamaForCausalLM(library.LlamaConfig(**{**LLAMA, **changes}, mlp_bias=True))


def mamba(library, **changes):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3}
    return library.MambaForCausalLM(library.MambaConfig(vocab_size=VOCAB, **{**sizes, **changes}))


def odd_mamba(library):
    changes = {"hidden_size": 7, "expand": 3, "conv_kernel": 3, "use_conv_bias": False}
    return mamba(library, **changes, state_size=16, tie_word_embeddings=False)


def short_mamba(library):
    return mamba(library, hidden_size=16, num_hidden_layers=1, state_size=1, conv_kernel=2)


def mamba2(library, **changes):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "chunk_size": 4}
    sizes |= {"num_heads": 8, "head_dim": 6, "n_groups": 2}
    config = library.Mamba2Config(vocab_size=VOCAB, pad_token_id=1, **{**sizes, **changes})
    return library.Mamba2ForCausalLM(config)


def odd_mamba2(library):
    changes = {"hidden_size": 10, "expand": 3, "num_heads": 6, "head_dim": 5, "n_groups": 3}
    limit = {"time_step_limit": (0.1, 0.9), "conv_kernel": 3}
    return mamba2(library, **changes, **limit, tie_word_embeddings=True)


def one_group_mamba2(library):
    return mamba2(library, n_groups=1, num_heads=3, head_dim=16, use_conv_bias=False)


def mixtral(library):
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "sliding_window": 5}
    sizes["intermediate_size"] = 36  # grouped_mm refuses odd lengths
    return library.MixtralForCausalLM(library.MixtralConfig(**{**LLAMA, **sizes}))


def qwen2_moe(library):
    sizes = {"num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 3}
    sizes |= {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 28}
    return library.Qwen2MoeForCausalLM(library.Qwen2MoeConfig(**{**LLAMA, **sizes}))


def mistral(library):
    config = library.MistralConfig(**LLAMA, num_key_value_heads=2, sliding_window=4)
    return library.MistralForCausalLM(config)


def qwen2(library):
    config = library.Qwen2Config(**LLAMA, num_key_value_heads=2, tie_word_embeddings=True)
    return library.Qwen2ForCausalLM(config)


def windowed_qwen2(library):
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config = library.Qwen2Config(**LLAMA, **windows, num_key_value_heads=2)
    return library.Qwen2ForCausalLM(config)


def qwen3(library, **windows):
    config = library.Qwen3Config(
        **LLAMA, **windows, num_key_value_heads=2, head_dim=10, rms_norm_eps=1e-3
    )
    return library.Qwen3ForCausalLM(config)


def windowed_qwen3(library):
    return qwen3(library, use_sliding_window=True, sliding_window=3, max_window_layers=0)


EVERY = {
    "GPT": gpt2,
    "GPT, untied": untied_gpt2,
    "Llama, grouped queries": llama,
    "Llama, tied, with biases": biased_llama,
    "Mistral": mistral,
    "Qwen2": qwen2,
    "Qwen2, a window in the upper layers": windowed_qwen2,
    "Qwen3": qwen3,
    "Qwen3, a window in every layer": windowed_qwen3,
    "Mamba": mamba,
    "Mamba, untied, odd sizes": odd_mamba,
    "Mamba, one state, short convolution": short_mamba,
    "Mamba-2, two groups": mamba2,
    "Mamba-2, tied, clamped, odd sizes": odd_mamba2,
    "Mamba-2, one group": one_group_mamba2,
    "Mixtral, with a window": mixtral,
    "Qwen2-MoE, with a shared expert": qwen2_moe,
}
every_decoder = pytest.mark.parametrize("name", EVERY, scope="module")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def built(name, tmp_path_factory):
    """Their model, and ours with its weights."""
    torch.manual_seed(0)
    theirs = randomised(EVERY[name](transformers()))
    ours = loaded(theirs, tmp_path_factory.mktemp("theirs"))
    assert isinstance(ours, Decoder) and not ours.reads_source
    return theirs, ours


@pytest.fixture
def pair(built):
    """Copies of both, which a test may change."""
    return copy.deepcopy(built)


@every_decoder
@torch.no_grad()
def test_logits_equal_theirs_and_survive_the_way_back(pair, tmp_path):
    theirs, ours = pair
    ids, mask = batch(VOCAB)
    close(ours(ids), theirs(ids).logits)
    close(ours(ids, mask), theirs(ids, attention_mask=mask).logits, where=mask)
    back = returned(ours, type(theirs), tmp_path / "ours")
    # copied: in a mapped file a weight may begin at an odd place, where sums take another order
    back = copy.deepcopy(back)
    assert torch.equal(back(ids).logits, theirs(ids).logits)


@every_decoder
@torch.no_grad()
def test_cached_logits_equal_uncached_logits(pair):
    _, ours = pair
    ids, mask = batch(VOCAB)
    left, whole = mask.flip(1), {}
    for padded, sizes in ((False, (4, 1, 1, 3)), (True, (4, 1, 1, 3)), (True, (1,) * 9)):
        cache, logits, start = ours.new_cache(3, 12), [], 0
        for size in sizes:
            seen = left[:, : start + size] if padded else None
            logits.append(ours(ids[:, start : start + size], seen, cache=cache))
            start += size
        if padded not in whole:
            whole[padded] = ours(ids, left if padded else None)
        close(torch.cat(logits, 1), whole[padded], where=left if padded else None)
        assert cache.length == 9 and cache.nbytes == sum(layer.nbytes for layer in cache) > 0


@every_decoder
@torch.no_grad()
def test_a_reordered_cache_continues_the_rows_that_it_names(pair):
    _, ours = pair
    ids, _ = batch(VOCAB)
    cache, rows = ours.new_cache(3, 9), torch.tensor([2, 2, 0, 1])
    ours(ids[:, :6], cache=cache)
    cache.reorder(rows)
    close(ours(ids[rows, 6:], cache=cache), ours(ids[rows])[:, 6:])


@every_decoder
@torch.no_grad()
def test_a_cropped_cache_has_forgotten_what_came_after(pair):
    _, ours = pair
    ids, _ = batch(VOCAB)
    cache = ours.new_cache(3, 9)
    ours(torch.cat([ids[:, :4], ids[:, :3]], 1), cache=cache)
    if isinstance(cache[0], StateCache):  # what a state came to cannot be taken back
        with pytest.raises(ValueError, match="a recurrent state cannot be cropped"):
            cache.crop(4)
        return
    cache.crop(4)
    close(ours(ids[:, 4:], cache=cache), ours(ids)[:, 4:])


@every_decoder
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(pair):
    _, ours = pair
    ids, mask = batch(VOCAB)
    for row, length in enumerate((9, 4, 6)):
        alone = ours(ids[row : row + 1, :length])[0]
        close(ours(ids, mask)[row, :length], alone)
        left = torch.stack([torch.roll(r, 9 - n) for r, n in zip(ids, (9, 4, 6), strict=True)])
        close(ours(left, mask.flip(1))[row, 9 - length :], alone)
        one = ours(left[row : row + 1], mask.flip(1)[row : row + 1])  # a batch of one, padded
        close(one[0, 9 - length :], alone)


@every_decoder
@torch.no_grad()
def test_texts_that_share_a_row_do_not_see_each_other(pair):
    _, ours = pair
    ids, _ = batch(VOCAB, rows=1)
    documents = torch.tensor([[1, 1, 1, 1, 2, 3, 3, 3, 0]])
    together = ours(ids, documents=documents)
    for at, end in ((0, 4), (4, 5), (5, 8)):
        close(together[:, at:end], ours(ids[:, at:end]))
    targets = ids.roll(-1, 1).masked_fill(torch.tensor([[1, 0, 0, 1, 1, 0, 0, 1, 1]]) > 0, -100)
    close(ours.loss(ids, targets, documents=documents), next_token_loss(together, targets))
    with pytest.raises(ValueError, match=r"documents must be int64 \(batch=1, tokens=9\)"):
        ours(ids, documents=documents.repeat(2, 1))


@every_decoder
def test_only_who_asks_computes_twice(pair):
    assert not pair[1].checkpointing


@every_decoder
def test_loss_and_gradients_equal_theirs(pair):
    theirs, ours = pair
    ids, mask = batch(VOCAB)
    labels = ids.masked_fill(mask == 0, -100)
    expected = theirs(ids, attention_mask=mask, labels=labels).loss
    expected.backward()
    # Theirs shifts the labels and has no target behind the last token.
    targets = torch.cat([labels[:, 1:], torch.full((3, 1), -100)], 1)
    loss = ours.loss(ids, targets, mask)
    loss.backward()
    close(loss, expected)
    close_gradients(ours, theirs)


@every_decoder
@torch.no_grad()
def test_the_loss_of_left_padded_rows_is_that_of_the_rows_alone(pair):
    _, ours = pair
    ids, mask = batch(VOCAB, lengths=(5, 5, 5))
    left, targets = torch.roll(ids, 4, 1), torch.roll(ids.roll(-1, 1), 4, 1)
    keep = mask.flip(1)
    close(
        ours.loss(left, targets.masked_fill(keep == 0, -100), keep),
        ours.loss(ids[:, :5], ids.roll(-1, 1)[:, :5]),
    )


@every_decoder
def test_checkpointing_computes_the_same_gradients_bit_for_bit(pair):
    _, ours = pair
    ids, mask = batch(VOCAB)
    ours.train()
    calls = []
    ours.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for ours.checkpointing in (False, True):
        ours.zero_grad()
        torch.manual_seed(3)  # dropout falls in the same places
        loss = ours.loss(ids, ids, mask)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in ours.parameters())])
    assert len(calls) == 1 + 2  # the second time, the block runs again for the backward pass
    for direct, again in zip(*found, strict=True):
        assert torch.equal(direct, again)


@every_decoder
def test_a_fresh_model_guesses_evenly(pair):
    ids, _ = batch(VOCAB, rows=8, tokens=30)
    fresh = type(pair[1])(pair[1].config)
    assert abs(fresh.loss(ids, ids.roll(1, 1)).item() - torch.tensor(101.0).log().item()) < 0.1
    for block in fresh.blocks:
        for weight in block.into_stream:
            expected = 0.02 / (2 * len(fresh.blocks)) ** 0.5
            assert abs(weight.std() / expected - 1) < 0.15


@every_decoder
def test_what_is_no_text_is_refused_with_what_it_was(pair):
    _, ours = pair
    ids, mask = batch(VOCAB)
    with pytest.raises(TypeError, match=r"input_ids must be int64 \(batch, tokens\): got float32"):
        ours(ids.float())
    with pytest.raises(TypeError, match=r"input_ids must be a tensor, int64 .*: got list"):
        ours(ids.tolist())
    with pytest.raises(ValueError, match=r"input_ids must be int64 .*: got int64 \(9,\)"):
        ours(ids[0])
    with pytest.raises(ValueError, match=r"attention_mask must be .*=3, .*=9\): got .*\(3, 8\)"):
        ours(ids, mask[:, :8])
    with pytest.raises(TypeError, match="attention_mask must be a tensor, .* got list"):
        ours.loss(ids, ids, mask.tolist())
    for bad, error in ((0, ValueError), (2.0, TypeError), ("9", TypeError)):
        with pytest.raises(error, match=f"max_len must be a whole number .*: got {bad!r}$"):
            ours.new_cache(3, bad)
    for bad in (VOCAB, -1):
        odd = ids.clone()
        odd[1, 7] = bad
        wrong = rf"input_ids must be from 0 to vocab_size − 1 = 100: got {bad} at \(1, 7\)"
        with pytest.raises(ValueError, match=wrong):
            ours(odd)
        with pytest.raises(ValueError, match=wrong.replace("input_ids", "targets")):
            ours.loss(ids, odd)
    with pytest.raises(ValueError, match=r"targets must have .*\(3, 9\): got \(3, 8\)"):
        ours.loss(ids, ids[:, :8])
