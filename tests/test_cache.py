"""Caches: a model's layers as one, what each refuses, and states that cannot be taken back."""

import pytest
import torch

from llmbook.cache import Caches, EncoderDecoderCache, KVCache, StateCache


def filled(tokens=5, batch=2, heads=3, max_len=8, head_dim=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    cache = KVCache(batch, heads, max_len, head_dim)
    k, v = torch.randn(2, batch, heads, tokens, head_dim, generator=g)
    cache.append(k, v)
    return cache, k, v


def test_a_cache_gives_back_what_was_appended_in_any_portions():
    whole, k, v = filled(5)
    parts = KVCache(2, 3, 8, 4)
    for start, end in ((0, 1), (1, 4), (4, 5)):
        got = parts.append(k[:, :, start:end], v[:, :, start:end])
    for one, other, want in zip(got, whole.held(), (k, v)):
        assert torch.equal(one, want) and torch.equal(other, want)


def test_a_crop_forgets_the_end_and_what_follows_takes_its_place():
    cache, k, v = filled(5)
    cache.crop(2)
    held, _ = cache.append(k[:, :, 4:], v[:, :, 4:])
    assert torch.equal(held, k[:, :, [0, 1, 4]])
    with pytest.raises(ValueError, match="length must be a whole number from 0 to 3: got 4"):
        cache.crop(4)
    with pytest.raises(ValueError, match="got -1"):
        cache.crop(-1)
    for bad in (1.5, True, "1", None):
        with pytest.raises(TypeError, match="length must be a whole number from 0 to 3"):
            cache.crop(bad)
    assert cache.length == 3


def test_caches_count_and_move_as_their_layers():
    (a, k, _), (b, _, v) = filled(seed=1), filled(seed=2)
    both = Caches([a, b])
    assert len(both) == 2 and both[1] is b and list(both) == [a, b]
    assert both.length == 5
    assert (
        both.nbytes == 2 * 2 * 2 * 3 * 8 * 4 * 4
    )  # layers, k and v, batch, heads, room, width, bytes
    both.reorder(torch.tensor([1, 1, 0]))
    assert torch.equal(a.held()[0], k[[1, 1, 0]]) and torch.equal(b.held()[1], v[[1, 1, 0]])
    both.crop(3)
    assert a.length == b.length == both.length == 3
    with pytest.raises(ValueError, match="at least one cache"):
        Caches([])


def test_states_are_replaced_counted_and_reordered():
    old, new = torch.zeros(2, 3), torch.arange(6.0).view(2, 3)
    cache = StateCache(scan=old, window=torch.zeros(2, 5, dtype=torch.float16))
    cache.update(7, scan=new)
    cache.update(1, scan=new + 1)
    assert cache.length == 8 and cache.nbytes == 2 * 3 * 4 + 2 * 5 * 2
    cache.reorder(torch.tensor([1, 0, 1]))
    assert torch.equal(cache["scan"], (new + 1)[[1, 0, 1]]) and cache["window"].shape == (3, 5)
    for wrong, message in ((new.double(), "float64"), (new[:, :2], r"\(3, 3\), .*got \(2, 2\)")):
        with pytest.raises(ValueError, match=message):
            cache.update(1, scan=wrong)
    with pytest.raises(ValueError, match="torch.no_grad"):
        cache.update(1, scan=torch.zeros(3, 3, requires_grad=True))
    assert cache.length == 8
    with pytest.raises(ValueError, match="at least one state"):
        StateCache()


def test_a_state_cannot_be_cropped_and_then_no_layer_is():
    state, (keys, _, _) = StateCache(scan=torch.zeros(2, 3)), filled()
    state.update(5, scan=torch.ones(2, 3))
    caches = Caches([keys, state])
    with pytest.raises(ValueError, match="a recurrent state cannot be cropped.*of 5 tokens"):
        caches.crop(3)
    assert keys.length == 5, "a hybrid's other layers must stay as they are"
    caches.crop(5)  # nothing to forget
    assert caches.length == 5


def test_an_encoder_decoder_s_cache_sizes_its_crosses_by_the_memory():
    own, _, _ = filled()
    cache, memory = EncoderDecoderCache([own]), torch.arange(12.0).view(2, 6, 1)
    before = cache.nbytes
    _, cross = cache.layer(0, memory)
    assert (cross.max_len, cross.length) == (6, 0) and cache.layer(0, memory)[1] is cross
    assert cache.nbytes == before + cross.nbytes
    cache.memory, cache.mask = memory, memory > 3
    cache.reorder(torch.tensor([1]))
    assert torch.equal(cache.memory, memory[1:]) and torch.equal(cache.mask, memory[1:] > 3)
    assert cross.keys.shape[0] == own.keys.shape[0] == 1
