"""A tokenizer as files describe it: text to ids in five steps, and ids back to text.

1. added tokens are cut out (`added`), 2. what lies between is normalized (`normalize`), 3. and cut
into pieces (`pretokenize`), 4. a model gives each piece its ids, 5. special tokens are set around
the whole (`finish`). A decoder goes the other way (`decoders`).
"""

import json
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from llmbook.checks import whole
from llmbook.data.folders import write_atomically
from llmbook.tokenization.added import AddedTokens
from llmbook.tokenization.decoders import decoder
from llmbook.tokenization.finish import finisher
from llmbook.tokenization.merging import Remembered
from llmbook.tokenization.normalize import normalizer
from llmbook.tokenization.pretokenize import steps
from llmbook.tokenization.tokenizer_config import CONFIG, config_text

KEPT_PIECES = 2**18  # pieces whose ids are remembered


@dataclass(frozen=True)
class Form:
    """What a `tokenizer.json` says beside its model and its added tokens; each a dict or None."""

    normalizer: dict | None = None
    pre_tokenizer: dict | None = None
    post_processor: dict | None = None
    decoder: dict | None = None
    truncation: dict | None = None
    padding: dict | None = None

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"damaged: {name} must be an object or null, got {value!r}")


class Tokenizer:
    """text -> ids -> text, by a model and the form around it.

    model: has `ids_of(piece)` -> list of int, `names` (dict from id to a token's text) and
    `to_dict()`, what a file says of it. added_tokens: a collection of `AddedToken`.
    Raises ValueError naming the part of the form that is not understood.
    """

    def __init__(self, model, added_tokens=(), form=None):
        self.model = model
        self._set_up(added_tokens, form or Form())
        self._names = model.names | self._added.names()
        self.vocab_size = max(self._names) + 1
        """One more than the highest id: what an embedding must hold."""

    def _set_up(self, added_tokens, form):
        """All but the model."""
        self.form, self.added_tokens = form, tuple(added_tokens)
        self.config = {}
        """What a `tokenizer_config.json` beside the file says: chat template, end token."""
        self._added = AddedTokens(self.added_tokens, normalizer(self.form.normalizer))
        self._cut = steps(self.form.pre_tokenizer)
        self._finish = finisher(self.form.post_processor, self.form.truncation, self.form.padding)
        self._decode = decoder(self.form.decoder)
        self.special_tokens = {t.content: t.id for t in self.added_tokens if t.special}
        self._special_ids = frozenset(self.special_tokens.values())
        self._remembered = Remembered(self.ids_of)

    def __len__(self):
        return self.vocab_size

    def __repr__(self):
        return (
            f"<{type(self).__name__} {type(self.model).__name__}: {self.vocab_size} ids, special "
            f"tokens {list(self.special_tokens)[:8]}>"
        )

    # --- text to ids

    def ids_of(self, piece):
        """Ids of one piece, as it comes out of cutting."""
        return self.model.ids_of(piece)

    def to_dict(self):
        """The model as a `tokenizer.json` has it."""
        return self.model.to_dict()

    def encode(self, text, allowed_special="all", *, add_special_tokens=True):
        """Ids of a text, a list of int.

        allowed_special: which special tokens the text may call by name. `"all"` is what the
        `tokenizers` library does; a collection of some of them; or `()`, so that "<|endoftext|>"
        in the text is plain text: what you want for text that a stranger wrote.
        add_special_tokens: whether those that the file sets around every text are set.
        Raises ValueError for a lone surrogate and for a name that is no special token.
        """
        check_text(text)
        ids = self._between(text, self._allowed(allowed_special))
        return self._finish(ids, add_special_tokens) if self._finish else ids

    def _between(self, text, allowed):
        ids, begins = [], True
        for part in self._added.cut(text, allowed):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_plain(part, begins)
            begins = False
        return ids

    def _encode_plain(self, text, begins=True):
        remembered = self._remembered
        if len(remembered) > KEPT_PIECES:
            remembered.clear()
        return list(chain.from_iterable(map(remembered.__getitem__, self._cut([text], begins))))

    def _allowed(self, allowed):
        """The contents of special tokens that may be called; None for all."""
        if isinstance(allowed, str):
            if allowed != "all":
                raise ValueError(f"allowed_special must be 'all' or a collection: got {allowed!r}")
            return None
        unknown = sorted(set(allowed) - set(self.special_tokens))
        if unknown:
            raise ValueError(
                f"allowed_special names {unknown[0]!r}, which is not a special token of this "
                f"tokenizer: it has {list(self.special_tokens)}"
            )
        return frozenset(allowed)

    # --- ids to text

    def decode(self, ids, skip_special_tokens=False):
        """The text of ids: a list, or a tensor or array of one axis.

        skip_special_tokens: leave special tokens out. An id that stands for no token gives
        nothing. Raises ValueError for an id outside 0 … vocab_size − 1, TypeError for none.
        """
        ids = checked_ids(ids, self.vocab_size)
        names = [self._names.get(i) for i in ids if not self._skips(i, skip_special_tokens)]
        return "".join(self._decode([name for name in names if name is not None]))

    def _skips(self, i, skip_special_tokens):
        return skip_special_tokens and i in self._special_ids

    # --- on disk

    def to_json(self):
        """The text of a `tokenizer.json`, which the `tokenizers` library loads to the same ids."""
        form = asdict(self.form)
        whole = {"version": "1.0", "truncation": form["truncation"], "padding": form["padding"]}
        added = sorted(self.added_tokens, key=lambda token: token.id)
        whole["added_tokens"] = [token.to_dict() for token in added]
        for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            whole[name] = form[name]
        whole["model"] = self.to_dict()
        return json.dumps(whole, ensure_ascii=False, indent=1)

    def save(self, path):
        """Write `tokenizer.json`: to the file `path`, or into a folder. Returns the file's path.

        Into a folder also `tokenizer_config.json`, with which `transformers` reads it as it is.
        """
        asked, path = Path(path), file_of(path)
        write_atomically(path, self.to_json())
        if path != asked:
            write_atomically(path.with_name(CONFIG), config_text(self.config, self.special_tokens))
        return path

    def fast(self):
        """The same tokenizer as a `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer as Library

        return Library.from_str(self.to_json())


def check_text(text):
    """Raise unless a text is a str that UTF-8 can say; returns it."""
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


def checked_ids(ids, vocab_size):
    """Ids as a list: from a list, a tensor or array of one axis, or one id.

    Raises ValueError for one outside 0 … vocab_size − 1, TypeError for what is no whole number.
    """
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    ids = list(ids) if hasattr(ids, "__iter__") else [ids]
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            whole("each of ids", i, least=0, most=vocab_size - 1)
    return ids


def file_of(path):
    """The `tokenizer.json` that a path means: itself, or the one in a folder."""
    path = Path(path)
    is_file = path.is_file() or (path.suffix and not path.is_dir())
    return path if is_file else path / "tokenizer.json"
