"""generation_config.json beside a model: read as it stands, written as it stands.

How decoding obeys it: llmbook/decoding/generation_config.py.
"""

from llmbook.models.pretrained.files import read_json

GENERATION = "generation_config.json"

# What folders written before that file existed say in config.json.
_IN_CONFIG = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "pad_token_id",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
)


def generation_from(folder, stored):
    """What the folder's file says, and False; or what config.json says in its place, and True.

    stored: config.json's content. None where neither says anything.
    """
    path = folder / GENERATION
    if path.is_file():
        return read_json(path), False
    found = {key: stored[key] for key in _IN_CONFIG if key in stored}
    return found or None, True


def generation_to(generation, in_config, config):
    """The content of generation_config.json (None for no such file) and of config.json.

    What once stood in config.json stands there again, and in a file only what cannot stand there.
    """
    if generation is None or not in_config:
        return generation, config
    old = {key: value for key, value in generation.items() if key in _IN_CONFIG}
    return None if len(old) == len(generation) else generation, {**config, **old}
