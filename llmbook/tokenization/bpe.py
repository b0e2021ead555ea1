"""Byte-level byte-pair encoding: a tokenizer that can say everything, trained and used here.

The alphabet is the 256 bytes, so nothing is ever unknown. Text is cut into pieces
(`pretokenize`), each piece is turned into its UTF-8 bytes, and the learned merges are applied to
each piece, earliest-learned first.

Sources: Sennrich et al. 2016, section 3.2 (merges); Radford et al. 2019, section 2.2 (bytes).
"""

from itertools import chain

from llmbook import checks
from llmbook.tokenization import tokenizer_json
from llmbook.tokenization.added import AddedToken
from llmbook.tokenization.batch import Batch
from llmbook.tokenization.byte_names import BYTE_ORDER, STAND_IN, printable, token_bytes
from llmbook.tokenization.chunks import chunks, falls_apart
from llmbook.tokenization.merging import LONG, Merges
from llmbook.tokenization.pipeline import KEPT_PIECES, Tokenizer, check_text, checked_ids, file_of
from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS, splitter
from llmbook.tokenization.starts import Unknown, start_ids
from llmbook.tokenization.tokenizer_config import read_config
from llmbook.tokenization.trainer import count_words, learn_merges

END_OF_TEXT = "<|endoftext|>"
LARGE_TEXT = 4_000_000  # characters from which "auto" trains with the library
_MANY = 256  # new pieces from which they are merged all at once


class BPETokenizer(Tokenizer):
    """A byte-level BPE tokenizer: text -> ids -> the same text.

    vocab: dict from a token's bytes to its id; merges: list of (bytes, bytes) in the order
    learned; special_tokens: dict from text to id; pattern: `"gpt2"` or `"gpt4"`, how text is cut
    first. Ids are whole numbers, each used once. Usually made by `train`, `train_fast` or `load`.

    What a file may say beside that: added_tokens, `AddedToken`s in place of `special_tokens`;
    form, a `Form` in place of `pattern`, which is None where it has no name; other_names, dict
    from text to id of tokens that no merge makes; unknown, what becomes of bytes that `vocab`
    lacks; ignore_merges: a piece that is a token is that token.
    Raises ValueError when the parts do not fit.
    """

    def __init__(
        self,
        vocab,
        merges,
        special_tokens=None,
        pattern="gpt2",
        *,
        added_tokens=(),
        form=None,
        other_names=None,
        unknown=None,
        ignore_merges=False,
    ):
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.pattern = pattern
        if form is None:
            splitter(pattern)  # raises for a name that is not known
            form = tokenizer_json.byte_level_form(pattern)
        added = [AddedToken(text, i) for text, i in (special_tokens or {}).items()]
        self._others = dict(special_tokens or {}) if other_names is None else dict(other_names)
        self.unknown, self.ignore_merges = unknown or Unknown(), ignore_merges
        added += added_tokens
        self._check_parts(added)
        self._set_up(added, form)
        bytes_of = {i: token_bytes(name) for name, i in self._others.items()}
        bytes_of |= {i: token for token, i in self.vocab.items()}
        bytes_of |= {i: token_bytes(name) for i, name in self._added.names().items()}
        self._bytes_of, self.vocab_size = bytes_of, max(bytes_of) + 1
        ids = self.vocab
        self._merges = Merges([(ids[a], ids[b], ids[a + b]) for a, b in self.merges])
        names = {STAND_IN[b]: ids[bytes([b])] for b in range(256) if bytes([b]) in ids}
        self._start_names = self._others | names
        whole = len(names) == 256
        self._byte_ids = [ids[bytes([b])] for b in range(256)] if whole else None
        self._batch = None
        self._falls_apart = falls_apart(form.pre_tokenizer)

    def _check_parts(self, added):
        numbers = [*self.vocab.values(), *self._others.values()]
        fresh = [
            t.id
            for t in added
            if t.content not in self._others and self.vocab.get(token_bytes(t.content)) != t.id
        ]
        ids = sorted(numbers + fresh)
        if len(set(ids)) < len(ids) or (ids and ids[0] < 0) or not ids:
            raise ValueError(
                f"ids must be whole numbers, each used once: got {len(set(ids))} different "
                f"ids for {len(ids)} tokens"
            )
        for a, b in self.merges:
            for token in (a, b, a + b):
                if token not in self.vocab:
                    raise ValueError(f"merge {a!r} + {b!r} needs {token!r}, which is not in vocab")
        names = {printable(token) for token in self.vocab}
        for text in self._others:
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
        checks.whole("vocab_size", vocab_size)
        if vocab_size < 256 + len(specials):
            raise ValueError(
                f"vocab_size must be at least 256 bytes + {len(specials)} special tokens: "
                f"got {vocab_size}"
            )
        checks.one_of("backend", backend, ("auto", "python", "tokenizers"))
        pieces = splitter(pattern)
        if backend != "python":
            texts = [texts] if isinstance(texts, str) else list(texts)
            texts = [check_text(text) for text in texts]
            if backend == "tokenizers" or sum(map(len, texts)) >= LARGE_TEXT:
                return cls.from_json(train_with_library(texts, vocab_size, specials, pattern))
        texts = [texts] if isinstance(texts, str) else texts
        counts = count_words(map(check_text, texts), pieces)

        alphabet = BYTE_ORDER
        first = len(specials)
        byte_ids = [first + alphabet.index(byte) for byte in range(256)]
        tokens = [None] * first + [bytes([byte]) for byte in alphabet]
        id_of = byte_ids.__getitem__
        words = {tuple(map(id_of, word.encode())): n for word, n in counts.items()}
        merges = learn_merges(words, tokens, vocab_size, progress)
        vocab = {token: i for i, token in enumerate(tokens) if i >= first}
        pairs = [(tokens[a], tokens[b]) for a, b in merges]
        return cls(vocab, pairs, {text: i for i, text in enumerate(specials)}, pattern)

    @classmethod
    def train_fast(cls, texts, vocab_size, special_tokens=(END_OF_TEXT,), *, pattern="gpt2"):
        """`train` with the `tokenizers` library: the same merges, some ten times as fast."""
        return cls.train(texts, vocab_size, special_tokens, pattern=pattern, backend="tokenizers")

    # --- text to ids and back

    def __repr__(self):
        return (
            f"<BPETokenizer {self.vocab_size} ids: {len(self.merges)} merges, special tokens "
            f"{list(self.special_tokens)[:8]}, pattern {self.pattern}>"
        )

    def encode_bytes(self, data):
        """Ids of any bytes, valid UTF-8 or not; added tokens are not looked for, nor any set."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes: got {type(data).__name__}")
        # a byte that is no UTF-8 becomes a surrogate, a sign for the pattern, and itself again
        return self._encode_plain(bytes(data).decode("utf-8", "surrogateescape"))

    def _encode_plain(self, text, begins=True):
        ids = []
        for chunk in chunks(text) if self._falls_apart else [text]:
            pieces = self._cut([chunk], begins)
            self._remember(pieces)
            ids += chain.from_iterable(map(self._remembered.__getitem__, pieces))
            begins = False
        return ids

    def _remember(self, pieces):
        """Work out many new pieces at once, and forget before there are too many."""
        known = self._remembered
        if len(pieces) < _MANY:
            if len(known) > KEPT_PIECES:
                known.clear()
            return
        different = set(pieces)
        new = different.difference(known)
        if len(known) + len(new) > KEPT_PIECES:
            known.clear()
            new = different
        if len(new) < _MANY // 8 or self._byte_ids is None:
            return
        if self._batch is None:
            self._batch = Batch(self._byte_ids, self._merges)
        new = [piece for piece in new if len(piece) <= LONG]
        data = [piece.encode("utf-8", "surrogateescape") for piece in new]
        if self.ignore_merges:
            known.update((p, [self.vocab[d]]) for p, d in zip(new, data) if d in self.vocab)
            new, data = zip(*((p, d) for p, d in zip(new, data) if d not in self.vocab))
        known.update(zip(new, self._batch.apply(data)))

    def ids_of(self, piece):
        """Ids of one piece: of all neighbours that can merge, the earliest-learned pair first."""
        data = piece.encode("utf-8", "surrogateescape")
        if self.ignore_merges and data in self.vocab:
            return [self.vocab[data]]
        if self._byte_ids is None:
            starts = start_ids(printable(data), self._start_names, self.unknown)
            return self._merges.apply(starts)
        return self._merges.apply_to_bytes(data, self._byte_ids)

    def decode_bytes(self, ids, skip_special_tokens=False):
        """The bytes of ids: a list, or a tensor or array of one axis.

        An added token's text is read as a token's name, as the library does: characters of
        Latin-1 and up to U+0143 stand there for single bytes. An id of no token gives nothing.
        Raises ValueError for an id outside 0 … vocab_size − 1, TypeError for none.
        """
        ids = [i for i in checked_ids(ids, self.vocab_size) if i in self._bytes_of]
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        return b"".join(map(self._bytes_of.__getitem__, ids))

    def decode(self, ids, skip_special_tokens=False):
        """The text of ids; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", "replace")

    # --- on disk

    def to_dict(self):
        """The model as a `tokenizer.json` has it."""
        vocab = {printable(token): i for token, i in self.vocab.items()} | self._others
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.unknown.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": self.unknown.fuse_unk,
            "byte_fallback": self.unknown.byte_fallback,
            "ignore_merges": self.ignore_merges,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[printable(a), printable(b)] for a, b in self.merges],
        }

    @classmethod
    def from_json(cls, text):
        """A tokenizer from the text of a `tokenizer.json`. Raises ValueError for another kind."""
        return cls(**tokenizer_json.byte_level(text))

    @classmethod
    def load(cls, path):
        """Read a `tokenizer.json`, or the one in a folder: any byte-level BPE.

        Raises FileNotFoundError; ValueError naming the part when it is damaged or of another kind.
        """
        path = file_of(path)
        try:
            tokenizer = cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        tokenizer.config = read_config(path)
        return tokenizer

    def tiktoken(self, name="llmbook"):
        """The same tokenizer as a `tiktoken.Encoding`; ImportError where tiktoken is missing.

        tiktoken ranks tokens by id, so the merges must be in the order of their ids: ValueError,
        as for a form that it has no place for.
        """
        import tiktoken

        built = [self.vocab[a + b] for a, b in self.merges]
        if built != sorted(set(built)):
            raise ValueError("tiktoken needs ids in the order of the merges, one merge for each")
        if self.pattern is None:
            raise ValueError(f"tiktoken needs one of the patterns {', '.join(LIBRARY_PATTERNS)}")
        return tiktoken.Encoding(
            name,
            pat_str=LIBRARY_PATTERNS[self.pattern],
            mergeable_ranks=self.vocab,
            special_tokens=self.special_tokens,
        )


def train_with_library(texts, vocab_size, special_tokens, pattern):
    """The text of a `tokenizer.json` whose merges the `tokenizers` library has learned."""
    import json

    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    whole = json.loads(Library(models.BPE()).to_str())
    form = tokenizer_json.byte_level_form(pattern)
    whole |= {"pre_tokenizer": form.pre_tokenizer, "decoder": form.decoder}
    tokenizer = Library.from_str(json.dumps(whole))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def _check_specials(names):
    if isinstance(names, str):
        raise TypeError(f"special_tokens must be a collection of strings: got {names!r}")
    names = list(names)
    for name in names:
        checks.text("each of special_tokens", name)
    if len(set(names)) != len(names):
        raise ValueError(f"special_tokens must differ from each other: got {names}")
    return [check_text(name) for name in names]
