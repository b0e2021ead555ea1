#!/usr/bin/env bash
# An added token beyond ASCII does not come back from a byte-level tokenizer.
#
# Version:   tokenizers 0.23.3
# Behaviour: with a ByteLevel decoder, `decode(encode(text))` returns the text for every ordinary
#            token, whatever the script. A token added by `add_tokens` is found in the text and gets
#            its one id, but on the way back the decoder takes its *content* for byte stand-ins: a
#            letter such as "ñ" stands for the byte 0xF1 there, which is no UTF-8, and comes back as
#            U+FFFD. ASCII tokens are unharmed.
# Seen:      'el señor come' comes back as 'el se\ufffdor come'
# Source:    run on a vocabulary of the 256 bytes, below; ByteLevel.decode_chain joins the tokens and
#            maps each character through the table of stand-ins, added tokens among them.
# Who meets it: whoever adds words of other languages, or chat marks such as "«user»", to GPT-2's,
#            Llama 3's or any other byte-level tokenizer and decodes with them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "tokenizers==0.23.3" 2>/dev/null
"$work/env/bin/python" - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()

text = "el señor come"
before = tokenizer.decode(tokenizer.encode(text).ids)
assert before == text, before

tokenizer.add_tokens(["señor", "user"])
ids = tokenizer.encode(text).ids
assert tokenizer.token_to_id("señor") in ids
after = tokenizer.decode(ids)
print(f"without the added token {before!r}, with it {after!r}")
assert after == "el se\ufffdor come", f"the behaviour has changed: {after!r}"
assert tokenizer.decode(tokenizer.encode("a user").ids) == "a user"
print("as described")
PY
