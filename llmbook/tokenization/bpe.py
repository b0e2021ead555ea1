"""Byte-level byte-pair encoding: a tokenizer that can say everything, trained and used here.

The alphabet is the 256 bytes, so nothing is ever unknown. Text is cut into pieces
(`pretokenize`), each piece is turned into its UTF-8 bytes, and the learned merges are applied to
each piece, earliest-learned first.

Sources: Sennrich et al. 2016, section 3.2 (merges); Radford et al. 2019, section 2.2 (bytes).
"""

import heapq
import os
import re
from itertools import chain
from numbers import Integral
from pathlib import Path

from llmbook.tokenization import tokenizer_json
from llmbook.tokenization.pretokenize import splitter
from llmbook.tokenization.trainer import count_words, learn_merges

END_OF_TEXT = "<|endoftext|>"
LARGE_TEXT = 4_000_000  # characters from which "auto" trains with the library
_KEPT_PIECES = 2**17  # pieces whose ids are remembered
_LONG_PIECE = 48  # bytes; a piece above is merged with a heap and not remembered


class BPETokenizer:
    """A byte-level BPE tokenizer: text -> ids -> the same text.

    vocab: dict from a token's bytes to its id; merges: list of (bytes, bytes) in the order learned;
    special_tokens: dict from text to id; pattern: `"gpt2"` or `"gpt4"`, how text is cut first.
    Ids are the whole numbers below `vocab_size`, each used once; all 256 single bytes have one.
    Usually made by `train`, `train_fast` or `load`. Raises ValueError when the parts do not fit.
    """

    def __init__(self, vocab, merges, special_tokens=None, pattern="gpt2"):
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.special_tokens = dict(special_tokens or {})
        self.pattern = pattern
        self._pieces = splitter(pattern)
        self._check_parts()
        self._bytes_of = [b""] * self.vocab_size
        for token, i in self.vocab.items():
            self._bytes_of[i] = token
        for text, i in self.special_tokens.items():
            self._bytes_of[i] = text.encode()
        self._byte_ids = [self.vocab[bytes([b])] for b in range(256)]
        ids = self.vocab
        self._ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(self.merges)}
        self._built = [ids[a + b] for a, b in self.merges]  # what the merge of a rank makes
        self._remembered = _Remembered(self._encode_piece)

    def _check_parts(self):
        ids = sorted([*self.vocab.values(), *self.special_tokens.values()])
        if ids != list(range(len(ids))):
            raise ValueError(
                f"ids must be 0 to {len(ids) - 1}, each used once: got {len(set(ids))} different "
                f"ids from {ids[0] if ids else None} to {ids[-1] if ids else None}"
            )
        missing = [b for b in range(256) if bytes([b]) not in self.vocab]
        if missing:
            raise ValueError(
                f"vocab must hold all 256 single bytes: {len(missing)} are missing, byte "
                f"{missing[0]} the first; train with the whole byte alphabet"
            )
        for a, b in self.merges:
            for token in (a, b, a + b):
                if token not in self.vocab:
                    raise ValueError(f"merge {a!r} + {b!r} needs {token!r}, which is not in vocab")
        names = {tokenizer_json.printable(token) for token in self.vocab}
        for text in self.special_tokens:
            if not text or text in names:  # in the file's one table of names there is room for one
                raise ValueError(f"special token {text!r} must differ from every token's name")

    # --- training

    @classmethod
    def train(
        cls,
        texts,
        vocab_size,
        special_tokens=(END_OF_TEXT,),
        *,
        pattern="gpt2",
        backend="auto",
        progress=None,
    ):
        """Learn merges from a text, or an iterable of texts, until there are `vocab_size` ids.

        Ids: the special tokens first, then the 256 bytes in the order of their printable stand-ins
        (as GPT-2 has them: "!" first), then one for each merge. There may be fewer than asked for,
        when no pair is left. Special tokens are not looked for in the texts. Which of equally
        frequent pairs wins: see `trainer.learn_merges`.

        backend: `"python"` (this package's `trainer`), `"tokenizers"` (the library's, the same
        merges), or `"auto"`: the library from 4 million characters on.
        progress: called with the number of tokens so far (`"python"` only).
        Raises ValueError/TypeError for unfit arguments and for a lone surrogate in a text.
        """
        specials = _check_specials(special_tokens)
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, Integral):
            raise TypeError(f"vocab_size must be a whole number: got {vocab_size!r}")
        if vocab_size < 256 + len(specials):
            raise ValueError(
                f"vocab_size must be at least 256 bytes + {len(specials)} special tokens: "
                f"got {vocab_size}"
            )
        if backend not in ("auto", "python", "tokenizers"):
            raise ValueError(f"backend must be auto, python or tokenizers: got {backend!r}")
        pieces = splitter(pattern)
        if backend != "python":
            texts = [texts] if isinstance(texts, str) else list(texts)
            texts = [_check_text(text) for text in texts]
            if backend == "tokenizers" or sum(map(len, texts)) >= LARGE_TEXT:
                return cls.from_json(
                    tokenizer_json.train_with_library(texts, vocab_size, specials, pattern)
                )
        texts = [texts] if isinstance(texts, str) else texts
        counts = count_words(map(_check_text, texts), pieces)

        alphabet = tokenizer_json.BYTE_ORDER
        first = len(specials)
        byte_ids = {byte: first + place for place, byte in enumerate(alphabet)}
        tokens = [None] * first + [bytes([byte]) for byte in alphabet]
        words = {tuple(byte_ids[b] for b in word.encode()): n for word, n in counts.items()}
        merges = learn_merges(words, tokens, vocab_size, progress)
        vocab = {token: i for i, token in enumerate(tokens) if i >= first}
        pairs = [(tokens[a], tokens[b]) for a, b in merges]
        return cls(vocab, pairs, {text: i for i, text in enumerate(specials)}, pattern)

    @classmethod
    def train_fast(cls, texts, vocab_size, special_tokens=(END_OF_TEXT,), *, pattern="gpt2"):
        """`train` with the `tokenizers` library: the same merges, some ten times as fast."""
        return cls.train(texts, vocab_size, special_tokens, pattern=pattern, backend="tokenizers")

    # --- text to ids and back

    @property
    def vocab_size(self):
        """How many ids there are, special tokens included."""
        return len(self.vocab) + len(self.special_tokens)

    def __len__(self):
        return self.vocab_size

    def __repr__(self):
        return (
            f"<BPETokenizer {self.vocab_size} ids: {len(self.merges)} merges, special tokens "
            f"{list(self.special_tokens)}, pattern {self.pattern}>"
        )

    def encode(self, text, allowed_special="all"):
        """Ids of a text, a list of int.

        allowed_special: which special tokens the text may call by name. `"all"` is what the
        `tokenizers` library does; a collection of some of them; or `()`, so that "<|endoftext|>"
        in the text is plain text: what you want for text that a stranger wrote.
        Raises ValueError for a lone surrogate and for a name that is no special token.
        """
        _check_text(text)
        specials = self._specials(allowed_special)
        if not specials:
            return self._encode_plain(text)
        names = sorted(specials, key=len, reverse=True)  # where two fit, the longer one
        ids = []
        for number, part in enumerate(re.split(f"({'|'.join(map(re.escape, names))})", text)):
            if number % 2:
                ids.append(self.special_tokens[part])
            elif part:
                ids += self._encode_plain(part)
        return ids

    def encode_bytes(self, data):
        """Ids of any bytes, valid UTF-8 or not; special tokens are not looked for."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes: got {type(data).__name__}")
        # a byte that is no UTF-8 becomes a surrogate, a sign for the pattern, and itself again
        return self._encode_plain(bytes(data).decode("utf-8", "surrogateescape"))

    def _encode_plain(self, text):
        remembered = self._remembered
        if len(remembered) > _KEPT_PIECES:
            remembered.clear()
        return list(chain.from_iterable(map(remembered.__getitem__, self._pieces(text))))

    def _specials(self, allowed):
        if isinstance(allowed, str):
            if allowed != "all":
                raise ValueError(f"allowed_special must be 'all' or a collection: got {allowed!r}")
            return set(self.special_tokens)
        unknown = sorted(set(allowed) - set(self.special_tokens))
        if unknown:
            raise ValueError(
                f"allowed_special names {unknown[0]!r}, which is not a special token of this "
                f"tokenizer: it has {list(self.special_tokens)}"
            )
        return set(allowed)

    def _encode_piece(self, piece):
        """Ids of one piece: of all neighbours that can merge, the earliest-learned pair first."""
        data = piece.encode("utf-8", "surrogateescape")
        ids = [self._byte_ids[b] for b in data]
        if len(ids) > _LONG_PIECE:
            return _merge_with_heap(ids, self._ranks, self._built)
        ranks, none = self._ranks, len(self.merges)
        while len(ids) > 1:
            found = [ranks.get(pair, none) for pair in zip(ids, ids[1:])]
            best = min(found)
            if best == none:
                break
            place = found.index(best)
            ids[place : place + 2] = [self._built[best]]
        return ids

    def decode_bytes(self, ids):
        """The bytes of ids. Raises ValueError for an id outside 0 … vocab_size − 1.

        ids: a list, or a tensor or array of one axis.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        ids = list(ids) if hasattr(ids, "__iter__") else [ids]
        size = self.vocab_size
        if not all(type(i) is int and 0 <= i < size for i in ids):  # a closer look
            self._check_ids(ids)
        return b"".join(map(self._bytes_of.__getitem__, ids))

    def _check_ids(self, ids):
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, Integral) or not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"ids must be whole numbers from 0 to {self.vocab_size - 1}: got {i!r}"
                )

    def decode(self, ids):
        """The text of ids; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    # --- on disk

    def to_json(self):
        """The text of a `tokenizer.json`, which the `tokenizers` library loads to the same ids."""
        return tokenizer_json.write(self)

    @classmethod
    def from_json(cls, text):
        """A tokenizer from the text of a `tokenizer.json`. Raises ValueError for another kind."""
        return cls(**tokenizer_json.read(text))

    def save(self, path):
        """Write `tokenizer.json`: to the file `path`, or into a folder. Returns the file's path."""
        path = _file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(self.to_json(), encoding="utf-8")
        os.replace(beside, path)  # whole or not at all
        return path

    @classmethod
    def load(cls, path):
        """Read a `tokenizer.json`, or the one in a folder.

        Raises FileNotFoundError; ValueError when it is damaged or not byte-level BPE as here.
        """
        path = _file(path)
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def fast(self):
        """The same tokenizer as a `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.to_json())

    def tiktoken(self, name="llmbook"):
        """The same tokenizer as a `tiktoken.Encoding`; ImportError where tiktoken is missing.

        tiktoken ranks tokens by id, so the merges must be in the order of their ids: ValueError.
        """
        import tiktoken

        built = [self.vocab[a + b] for a, b in self.merges]
        if built != sorted(set(built)):
            raise ValueError("tiktoken needs ids in the order of the merges, one merge for each")
        from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS

        return tiktoken.Encoding(
            name,
            pat_str=LIBRARY_PATTERNS[self.pattern],
            mergeable_ranks=self.vocab,
            special_tokens=self.special_tokens,
        )


class _Remembered(dict):
    """Piece -> ids, worked out when first asked for; long pieces are not kept."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def __missing__(self, piece):
        ids = self.compute(piece)
        if len(piece) <= _LONG_PIECE:
            self[piece] = ids
        return ids


def _merge_with_heap(ids, ranks, built):
    """The same merges in n log n steps: neighbours in a linked list, candidates in a heap.

    A candidate is one number, rank · n + place: the lowest rank first, and of these the leftmost.
    """
    ids, n = list(ids), len(ids)
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [
        ranks[pair] * n + place for place, pair in enumerate(zip(ids, ids[1:])) if pair in ranks
    ]
    heapq.heapify(heap)
    while heap:
        rank, place = divmod(heapq.heappop(heap), n)
        right = after[place]
        if right >= n or ranks.get((ids[place], ids[right])) != rank:
            continue  # one of the two has been merged meanwhile
        ids[place], ids[right] = built[rank], None
        after[place] = last = after[right]
        after[right] = n  # out of the list
        if last < n:
            before[last] = place
            found = ranks.get((ids[place], ids[last]))
            if found is not None:
                heapq.heappush(heap, found * n + place)
        if place:
            first = before[place]
            found = ranks.get((ids[first], ids[place]))
            if found is not None:
                heapq.heappush(heap, found * n + first)
    return [i for i in ids if i is not None]


def _check_text(text):
    if not isinstance(text, str):
        raise TypeError(f"text must be a str: got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds a lone surrogate, U+{ord(text[error.start]):04X} at position "
            f"{error.start}, which no UTF-8 can say: use encode_bytes for bytes that are not text"
        ) from None
    return text


def _check_specials(names):
    if isinstance(names, str):
        raise TypeError(f"special_tokens must be a collection of strings: got {names!r}")
    names = list(names)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"a special token must be a string of at least one character: got {name!r}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"special_tokens must differ from each other: got {names}")
    return [_check_text(name) for name in names]


def _file(path):
    path = Path(path)
    is_file = path.is_file() or (path.suffix and not path.is_dir())
    return path if is_file else path / "tokenizer.json"
