"""Text to ids and back: byte-level BPE to use, and its relatives to compare it with.

    from llmbook.tokenization import BPETokenizer

    tokenizer = BPETokenizer.train(text, vocab_size=1024)
    ids = tokenizer.encode("Hello, world")
    tokenizer.decode(ids)

`BPETokenizer` (bpe.py) is what the book's models use; `trainer` learns its merges, `pretokenize`
cuts text into pieces, `tokenizer_json` is its file format. `WordPiece` and `Unigram` are small
and readable contrasts.
"""

from llmbook.tokenization.bpe import END_OF_TEXT, BPETokenizer
from llmbook.tokenization.pretokenize import split
from llmbook.tokenization.unigram import Unigram
from llmbook.tokenization.wordpiece import WordPiece

__all__ = ["END_OF_TEXT", "BPETokenizer", "Unigram", "WordPiece", "split"]
