"""`tokenizer_config.json`: what `transformers` wants to know beside a `tokenizer.json`.

It names the special tokens' parts (which one begins or ends a text, which one fills up), holds the
chat template, and the class that reads the tokenizer. Ids do not depend on it here: they are those
of `tokenizer.json`. What a folder says is kept and written again, with one change: the class is
"TokenizersBackend", which takes `tokenizer.json` as it is. Classes named after a model rebuild
parts of it: `LlamaTokenizer` drops a byte-level file's pipeline, and spaces vanish.
"""

import json

CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
CLASS = "TokenizersBackend"


def read_config(path):
    """The configuration beside a `tokenizer.json`, a dict; empty where there is none.

    What only `special_tokens_map.json`, an older file, says is taken in.
    Raises ValueError naming the file that is no JSON object.
    """
    found = {}
    if path.name == "tokenizer.json":
        for name in (SPECIAL, CONFIG):
            beside = path.with_name(name)
            if beside.is_file():
                found |= _object(beside)
    return found


def _object(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def config_text(config, special_tokens):
    """The text of a `tokenizer_config.json`.

    config: what is known already; without an end token "<|endoftext|>" is it, where there is one.
    """
    end = "<|endoftext|>"
    ends = {"eos_token": end} if end in special_tokens and "eos_token" not in config else {}
    whole = {**config, **ends, "tokenizer_class": CLASS}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
