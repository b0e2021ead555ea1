"""How a published model asks to be decoded: generation_config.json, as `generate` obeys it.

`model.generation_config` is that file's content, key by key, or what an older config.json says in
its place, or None; `load` sets it and `save` writes it back. `generate` takes from it

* the tokens: eos_token_id (one or several), pad_token_id, decoder_start_token_id, bos_token_id;
* the rules on what may come: forced_bos_token_id, forced_eos_token_id, min_length, min_new_tokens,
  no_repeat_ngram_size, suppress_tokens, begin_suppress_tokens, repetition_penalty.

It doesn't take how to search or how long (do_sample, temperature, top_k, num_beams, max_length …):
that is the call's. `sampling(model)` gives those that concern sampling, for
`generate(…, **sampling(model))`. Where there is no file, the tokens are the model's config's.
"""

from llmbook.checks import whole
from llmbook.decoding import constraints

# Keys that change what even a greedy search writes, and that we don't obey; values that ask for
# nothing.
_REFUSED = {
    "bad_words_ids": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "sequence_bias": None,
    "stop_strings": None,
}
# theirs: ours, in the config of a model without generation_config.json
_TOKENS = {
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
    "bos_token_id": "bos_id",
    "decoder_start_token_id": "start_id",
}


def asked(model, key, default=None):
    """What generation_config.json says under this key; without such a file, the model's config."""
    stored = getattr(model, "generation_config", None) or {}
    value = stored.get(key)
    if key not in stored and (not stored or model.generation_in_config):
        config = getattr(model, "config", None)
        value = getattr(config, _TOKENS.get(key, key), None)
        value = getattr(config, key, None) if value is None else value
    return default if value is None else value


def end_ids(model, given):
    """The tokens that end a text: a tuple, empty for none. given: one, several, or None."""
    return several("eos_id", asked(model, "eos_token_id", ()) if given is None else given)


def several(name, value):
    """One token or several, as a tuple."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(whole(name, one) for one in values)


def rules(model, begin, max_new_tokens, ends):
    """What the file asks for, as functions (logits, tokens) → logits, in transformers' order.

    begin: number of tokens before the first new one. Raises ValueError for a key that would change
    the text and that we don't obey.
    """
    stored = getattr(model, "generation_config", None) or {}
    for key, nothing in _REFUSED.items():
        if stored.get(key) not in (None, nothing):
            raise ValueError(
                f"generation_config must not ask for {key}, which generate does not do: got "
                f"{stored[key]!r}; remove it from model.generation_config"
            )
    found, first = [], stored.get("forced_bos_token_id")
    if n := stored.get("no_repeat_ngram_size"):
        found.append(constraints.no_repeated_ngram(whole("no_repeat_ngram_size", n, least=1)))
    least = max(stored.get("min_length") or 0, begin + (stored.get("min_new_tokens") or 0))
    if ends and least > begin:
        found.append(constraints.forbid_before(least, ends))
    if first is not None:
        found.append(constraints.force_at(1, several("forced_bos_token_id", first)))
    last = stored.get("forced_eos_token_id")
    if last is not None:
        at = begin + max_new_tokens - 1
        found.append(constraints.force_at(at, several("forced_eos_token_id", last)))
    if ids := stored.get("suppress_tokens"):
        found.append(constraints.forbid(several("suppress_tokens", ids)))
    if ids := stored.get("begin_suppress_tokens"):
        at = begin if begin > 1 or first is None else begin + 1
        found.append(constraints.forbid_at(at, several("begin_suppress_tokens", ids)))
    return found


def sampling(model):
    """The file's sampling, as arguments of `generate`: temperature, top_k, top_p, min_p.

    {"temperature": 0.0} where it says do_sample false, or nothing.
    """
    stored = getattr(model, "generation_config", None) or {}
    if not stored.get("do_sample"):
        return {"temperature": 0.0}
    found = {key: stored.get(key) for key in ("top_k", "top_p", "min_p")}
    found["top_k"] = found["top_k"] or None  # 0 switches it off there
    return {"temperature": stored.get("temperature") or 1.0, **found}
