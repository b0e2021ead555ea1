"""Text to ids and back: byte-level BPE to use, and its relatives to compare it with.

    from llmbook.tokenization import BPETokenizer

    tokenizer = BPETokenizer.train(text, vocab_size=1024)
    ids = tokenizer.encode("Hello, world")
    tokenizer.decode(ids)

`BPETokenizer` (bpe.py) is what the book's models use; `trainer` learns its merges, `merging` and
`batch` apply them. `WordPiece` and `Unigram` are small and readable contrasts.

`load` reads any `tokenizer.json` (files.py). What such a file says is done one step after the
other (pipeline.py): `added` tokens, `normalize`, `pretokenize`, the model, `finish`, and back
again `decoders`.
"""

from llmbook.tokenization.added import AddedToken
from llmbook.tokenization.bpe import END_OF_TEXT, BPETokenizer
from llmbook.tokenization.files import load
from llmbook.tokenization.pipeline import Form, Tokenizer
from llmbook.tokenization.pretokenize import split
from llmbook.tokenization.unigram import Unigram
from llmbook.tokenization.wordpiece import WordPiece

__all__ = [
    "END_OF_TEXT",
    "AddedToken",
    "BPETokenizer",
    "Form",
    "Tokenizer",
    "Unigram",
    "WordPiece",
    "load",
    "split",
]
