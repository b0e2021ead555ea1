"""From a source's name to tokens: documents, their two sides, a tokenizer, two streams.

A document is on one side only, training or validation: documentation by the sha256 of its name; a
single text is cut once, its last tenth being validation. The tokenizer is learned from the
training side alone.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from llmbook.data import documentation, tiny_shakespeare
from llmbook.data.packing import pack
from llmbook.tokenization import END_OF_TEXT, BPETokenizer
from llmbook.tokenization.characters import CharacterTokenizer


@dataclass(frozen=True)
class Text:
    """A corpus as tokens: what a run reads.

    train, validation: int32 (tokens,), one stream each. end_of_text: its id, None where the corpus
    is one text. validation_bytes: of the validation text in UTF-8. card: what a model card says of
    it. fingerprint: changes with the text, the tokenizer and their order.
    """

    train: torch.Tensor
    validation: torch.Tensor
    tokenizer: object
    end_of_text: int | None
    validation_bytes: int
    card: dict

    @property
    def vocab_size(self):
        """Number of ids, the end of text included."""
        return len(self.tokenizer)

    @property
    def fingerprint(self):
        """sha256 of both streams."""
        digest = hashlib.sha256()
        for ids in (self.train, self.validation):
            digest.update(ids.numpy().tobytes())
        return digest.hexdigest()

    def bits_per_byte(self, nats_per_token):
        """What a loss means in bits for each byte of text, comparable across tokenizers."""
        tokens = len(self.validation) - 1
        return nats_per_token * tokens / self.validation_bytes / math.log(2)


def read_text(config):
    """The `Text` that a `DataConfig` asks for.

    Raises ValueError/OSError for a file that isn't there, is no UTF-8, or has too little text.
    """
    train, validation, card = documents_of(config)
    text = packed_text(train, validation, _tokenizer(config, train, validation), card)
    if min(len(text.train), len(text.validation)) < 2:
        raise ValueError(f"{config.source} has too little text to train on")
    return text


def packed_text(train, validation, tokenizer, card):
    """The `Text` of two sides, lists of strings; <|endoftext|> between texts where there are two.

    card: what a model card says of the sides; how many tokens and bytes they have is added.
    """
    end = tokenizer.special_tokens.get(END_OF_TEXT) if len(train) > 1 else None
    streams = [
        pack((tokenizer.encode(text, ()) for text in side), end) for side in (train, validation)
    ]
    size = sum(len(text.encode()) for text in validation)
    counts = {
        "train_tokens": len(streams[0]),
        "validation_tokens": len(streams[1]),
        "validation_bytes": size,
    }
    return Text(*streams, tokenizer, end, size, {**card, **counts})


def documents_of(config):
    """The texts of both sides, two lists of strings, and what a card says of them."""
    if config.source == "documentation":
        sides = [documentation(split, config.size) for split in ("train", "validation")]
        card = {"train": sides[0].card(), "validation": sides[1].card()}
        return *([document.text for document in side] for side in sides), card
    if config.source == "shakespeare":
        text = tiny_shakespeare()
    else:
        path = Path(config.source).expanduser()
        if not path.is_file():
            raise ValueError(
                f"source must be documentation, shakespeare or a text file: got {config.source!r}"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be UTF-8 text: {error}") from error
    cut = int(0.9 * len(text))
    card = {
        "source": config.source,
        "characters": len(text),
        "validation": "the last tenth",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return [text[:cut]], [text[cut:]], card


def _tokenizer(config, train, validation):
    if config.tokenizer == "characters":
        # A character that only the validation side has needs an id too.
        characters = "".join({*"".join(train), *"".join(validation)})
        return CharacterTokenizer(characters, end_of_text=len(train) > 1)
    if config.tokenizer == "bpe":
        return BPETokenizer.train(train, config.vocab_size)
    if not Path(config.tokenizer).expanduser().exists():
        raise ValueError(
            "tokenizer must be bpe, characters or the path of a tokenizer.json: "
            f"got {config.tokenizer!r}"
        )
    return BPETokenizer.load(Path(config.tokenizer).expanduser())
