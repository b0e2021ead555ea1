"""Reading a tokenizer, whatever its kind: `load` chooses by what `tokenizer.json` says.

Byte-level BPE (GPT-2, Llama 3, Qwen, gpt-oss, DeepSeek, RoBERTa, BART) becomes a `BPETokenizer`;
BPE over characters (Llama 2, Mistral, Gemma), WordPiece (BERT) and Unigram (T5, mT5) a
`Tokenizer`.
"""

from llmbook.tokenization import tokenizer_json
from llmbook.tokenization.bpe import BPETokenizer
from llmbook.tokenization.pipeline import Tokenizer, file_of
from llmbook.tokenization.text_bpe import TextBPE
from llmbook.tokenization.tokenizer_config import read_config
from llmbook.tokenization.unigram import Unigram
from llmbook.tokenization.wordpiece import WordPiece


def load(path):
    """Read a `tokenizer.json`, or the one in a folder.

    Raises FileNotFoundError; ValueError naming the file and the part that is damaged or not
    understood.
    """
    path = file_of(path)
    try:
        tokenizer = from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tokenizer.config = read_config(path)
    return tokenizer


def from_json(text):
    """The tokenizer of the text of a `tokenizer.json`. Raises ValueError naming the part."""
    model, added, form = tokenizer_json.read(text)
    if tokenizer_json.is_byte_level(model, form):
        return BPETokenizer.from_json(text)
    kind = model["type"]
    if kind not in _MODELS:
        known = ", ".join(_MODELS)
        raise ValueError(f"model.type is {kind!r}, which is not read here: {known}")
    return Tokenizer(_MODELS[kind](model), added, form)


_MODELS = {
    "BPE": lambda model: TextBPE(*tokenizer_json.bpe_parts(model)),
    "WordPiece": WordPiece.from_dict,
    "Unigram": Unigram.from_dict,
}
