"""What a model keeps of the tokens it has read, so that the next one costs one token's work.

    KVCache              one attention layer: keys and values, growing with the text
    StateCache           one recurrent layer: states of fixed size, however long the text
    Caches               a whole decoder: one of these a layer, handled as one
    EncoderDecoderCache  a whole encoder–decoder: the memory, and two `KVCache`s a decoder layer

All have `length` (tokens held), `nbytes`, `reorder(rows)` and `crop(length)`.
"""

import torch

from llmbook.checks import whole, wholes


class KVCache:
    """One layer's keys and values of the tokens seen so far: room for max_len, `length` held.

    keys, values: (batch, n_kv_heads, max_len, head_dim). Costs 2 · batch · n_kv_heads · max_len ·
    head_dim numbers (`nbytes`), whatever the number of query heads. value_dim: where the second of
    the two is of another width.
    """

    def __init__(
        self, batch, n_kv_heads, max_len, head_dim, *, value_dim=None, device=None, dtype=None
    ):
        wholes(1, batch=batch, max_len=max_len)
        shape, value_dim = (
            (batch, n_kv_heads, max_len),
            head_dim if value_dim is None else value_dim,
        )
        self.keys = torch.zeros(*shape, head_dim, device=device, dtype=dtype)
        self.values = torch.zeros(*shape, value_dim, device=device, dtype=dtype)
        self.length = 0

    @property
    def max_len(self):
        """Number of tokens that there is room for."""
        return self.keys.shape[2]

    @property
    def nbytes(self):
        """Bytes held, filled or not."""
        return (self.keys.numel() + self.values.numel()) * self.keys.element_size()

    def append(self, k, v):
        """Add tokens; return all keys and values so far (batch, n_kv_heads, length, head_dim)."""
        tokens = k.shape[2]
        expected = [(*held.shape[:2], tokens, held.shape[3]) for held in (self.keys, self.values)]
        if [tuple(k.shape), tuple(v.shape)] != expected:
            raise ValueError(
                "keys and values must fit the cache's (batch, n_kv_heads, ·, head_dim) = "
                f"{expected[0]} and {expected[1]}: got {tuple(k.shape)} and {tuple(v.shape)}"
            )
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ValueError("the cache is for generating: call the model under torch.no_grad()")
        if k.dtype != self.keys.dtype:
            raise TypeError(f"the cache holds {self.keys.dtype}: got keys in {k.dtype}")
        end = self.length + tokens
        if end > self.max_len:
            raise ValueError(
                f"the cache is full: max_len={self.max_len}, {self.length} held, {tokens} to add"
            )
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.held()

    def held(self):
        """The keys and values held: two views (batch, n_kv_heads, length, head_dim)."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def crop(self, length):
        """Forget the tokens from position `length` on, as rejected guesses in decoding are."""
        self.length = check_crop(self, length)

    def reorder(self, rows):
        """Let row i of the batch continue row rows[i] (beam search); the batch may change size."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class StateCache:
    """One recurrent layer's states: named tensors (batch, …), of one size for every length.

    A layer reads `cache["name"]` and hands in what follows by `update`. The past is not kept, only
    what it came to, so nothing but the whole can be forgotten: `crop` refuses.
    """

    def __init__(self, **states):
        if not states:
            raise ValueError("a StateCache needs at least one state: got none")
        self.states, self.length = states, 0

    def __getitem__(self, name):
        return self.states[name]

    @property
    def nbytes(self):
        """Bytes held."""
        return sum(s.numel() * s.element_size() for s in self.states.values())

    def update(self, tokens, **states):
        """Put the states after `tokens` further ones in place of the old."""
        for name, new in states.items():
            old = self.states[name]
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    f"{name} must stay {tuple(old.shape)}, {old.dtype}: got {tuple(new.shape)}, "
                    f"{new.dtype}"
                )
            if torch.is_grad_enabled() and new.requires_grad:
                raise ValueError(
                    "the cache is for generating: call the model under torch.no_grad()"
                )
        self.states.update(states)
        self.length += tokens

    def crop(self, length):
        """Raise, unless there is nothing to forget: a state cannot be taken back."""
        check_crop(self, length)
        if length != self.length:
            raise ValueError(
                f"a recurrent state cannot be cropped: it holds the sum of {self.length} tokens, "
                f"and the one after {length} is gone; read the text again"
            )

    def reorder(self, rows):
        """Let row i of the batch continue row rows[i]; the batch may change size."""
        self.states = {name: state[rows] for name, state in self.states.items()}


class Caches:
    """A decoder's caches as one: `caches[i]` is layer i's, `len(caches)` the number of layers."""

    def __init__(self, layers):
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("layers must be at least one cache: got none")

    def __getitem__(self, layer):
        return self.layers[layer]

    def __len__(self):
        return len(self.layers)

    @property
    def length(self):
        """Number of tokens held."""
        return self.layers[0].length

    @property
    def nbytes(self):
        """Bytes of all layers, filled or not."""
        return sum(layer.nbytes for layer in self.layers)

    def crop(self, length):
        """Forget the tokens from position `length` on, in all layers or, with an error, in none.

        Raises ValueError for more tokens than are held, and where a layer keeps a recurrent state.
        """
        check_crop(self, length)
        for layer in sorted(self.layers, key=lambda one: not isinstance(one, StateCache)):
            layer.crop(length)  # those that may refuse come first

    def reorder(self, rows):
        """Let row i of the batch continue row rows[i] (beam search); the batch may change size."""
        for layer in self.layers:
            layer.reorder(rows)


class EncoderDecoderCache(Caches):
    """What writing keeps: the source's memory, and keys and values of every decoder layer.

    layers: self-attention's caches, which grow with each target; cross-attention's (`crosses`) are
    made once from the memory, as long as the source.
    """

    def __init__(self, layers):
        super().__init__(layers)
        self.crosses = [None] * len(self.layers)
        self.memory = self.mask = None

    @property
    def nbytes(self):
        """Bytes of all keys and values, filled or not."""
        return super().nbytes + sum(one.nbytes for one in self.crosses if one is not None)

    def layer(self, i, memory):
        """The caches of layer i's two attentions; the second is sized by the memory."""
        if self.crosses[i] is None:
            own = self.layers[i].keys
            self.crosses[i] = KVCache(
                own.shape[0],
                own.shape[1],
                memory.shape[1],
                own.shape[3],
                device=own.device,
                dtype=own.dtype,
            )
        return self.layers[i], self.crosses[i]

    def reorder(self, rows):
        """Let row i of the batch continue row rows[i] (beam search); the batch may change size."""
        super().reorder(rows)
        for one in self.crosses:
            if one is not None:
                one.reorder(rows)
        if self.memory is not None:
            self.memory = self.memory[rows]
            self.mask = None if self.mask is None else self.mask[rows]


def computed_dtype(weight):
    """What keys and values of this weight come out as: autocast's dtype where that is on."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def check_crop(cache, length):
    """`length` as an int, when so many tokens are held."""
    return whole("length", length, least=0, most=cache.length)
