"""Solutions of the exercises on tokenization, and wrong answers of students."""

import math


def bpe(word, merges):
    tokens = list(word)
    rank = {pair: i for i, pair in enumerate(merges)}
    while True:
        pairs = list(zip(tokens, tokens[1:]))
        known = [pair for pair in pairs if pair in rank]
        if not known:
            return tokens
        i = pairs.index(min(known, key=rank.get))
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def longest_match(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        for end in range(len(word), start, -1):
            if mark + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def bits_per_byte(loss, tokens, size):
    return loss * tokens / math.log(2) / size


def unlearned(tokenizer, texts):
    used = {i for text in texts for i in tokenizer.encode(text)}
    merged = [i for token, i in tokenizer.vocab.items() if len(token) > 1]
    return sorted(set(merged) - used)


SOLUTIONS = {
    "bpe": bpe, "longest_match": longest_match, "bits_per_byte": bits_per_byte,
    "whole_text": ["bytes", "BPE"], "merge_number": 4, "unlearned": unlearned,
}


def bpe_from_the_left(word, merges):
    tokens = list(word)
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) in merges:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
            i = 0
        else:
            i += 1
    return tokens


def bpe_longest_token_first(word, merges):
    known = {a + b for a, b in merges}
    out, i = [], 0
    while i < len(word):
        end = next(e for e in range(len(word), i, -1) if word[i:e] in known or e == i + 1)
        out.append(word[i:end])
        i = end
    return out


def bpe_latest_merge_first(word, merges):
    return bpe(word, merges[::-1])


def bpe_one_merge_only(word, merges):
    tokens = list(word)
    for pair in merges:
        for i in range(len(tokens) - 1):
            if (tokens[i], tokens[i + 1]) == pair:
                tokens[i : i + 2] = ["".join(pair)]
                return tokens
    return tokens


def bpe_each_merge_at_one_place(word, merges):
    tokens = list(word)
    for pair in merges:
        for i in range(len(tokens) - 1):
            if (tokens[i], tokens[i + 1]) == pair:
                tokens[i : i + 2] = ["".join(pair)]
                break
    return tokens


def bpe_as_one_text(word, merges):
    return " ".join(bpe(word, merges))


def bpe_characters(word, merges):
    return list(word)


def match_shortest(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        for end in range(start + 1, len(word) + 1):
            if mark + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def match_without_marks(word, vocab):
    return [piece.removeprefix("##") for piece in longest_match(word, vocab)]


def match_with_unknown_letters(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        for end in range(len(word), start, -1):
            if mark + word[start:end] in vocab:
                pieces.append(mark + word[start:end])
                break
        else:
            end = start + 1
            pieces.append("[UNK]")
        start = end
    return pieces


def match_that_keeps_what_it_has(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        for end in range(len(word), start, -1):
            if mark + word[start:end] in vocab:
                break
        else:
            return [*pieces, "[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def match_that_drops_strange_letters(word, vocab):
    return [p for p in match_with_unknown_letters(word, vocab) if p != "[UNK]"]


def match_marks_on_all(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            if "##" + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append("##" + word[start:end])
        start = end
    return pieces


def unlearned_with_bytes(tokenizer, texts):
    used = {i for text in texts for i in tokenizer.encode(text)}
    return sorted(set(tokenizer.vocab.values()) - used)


def unlearned_that_are_used(tokenizer, texts):
    used = {i for text in texts for i in tokenizer.encode(text)}
    return sorted(i for t, i in tokenizer.vocab.items() if len(t) > 1 and i in used)


def unlearned_in_the_first_text(tokenizer, texts):
    return unlearned(tokenizer, texts[:1])


def unlearned_in_any_text(tokenizer, texts):
    return sorted({i for text in texts for i in unlearned(tokenizer, [text])})


def unlearned_with_special(tokenizer, texts):
    return sorted([*unlearned(tokenizer, texts), *tokenizer.special_tokens.values()])


WRONG = {
    "bpe": {
        "whatever merges first from the left": bpe_from_the_left,
        "the longest known token first": bpe_longest_token_first,
        "the merge learned last first": bpe_latest_merge_first,
        "one merge and no more": bpe_one_merge_only,
        "each merge at one place only": bpe_each_merge_at_one_place,
        "no merge at all": bpe_characters,
        "one text": bpe_as_one_text,
    },
    "longest_match": {
        "the shortest piece first": match_shortest,
        "no ## inside a word": match_without_marks,
        "one unknown for each strange letter": match_with_unknown_letters,
        "pieces before the unknown are kept": match_that_keeps_what_it_has,
        "strange letters are dropped": match_that_drops_strange_letters,
        "## at the start too": match_marks_on_all,
    },
    "bits_per_byte": {
        "still in nats": lambda loss, tokens, size: loss * tokens / size,
        "multiplied by ln 2": lambda loss, tokens, size: loss * tokens * math.log(2) / size,
        "tokens and bytes swapped": lambda loss, tokens, size: loss * size / tokens / math.log(2),
        "bits per token": lambda loss, tokens, size: loss / math.log(2),
        "perplexity": lambda loss, tokens, size: math.exp(loss * tokens / size),
        "log2 of the loss": lambda loss, tokens, size: math.log2(loss) * tokens / size,
    },
    "whole_text": {
        "all": ["bytes", "BPE", "WordPiece", "Unigram"],
        "bytes alone": ["bytes"],
        "not bytes": ["BPE"],
        "none": [],
        "a space is kept by its sign": ["bytes", "BPE", "Unigram"],
        "WordPiece knows the word": ["bytes", "BPE", "WordPiece"],
    },
    "merge_number": {
        "the first": 1,
        "when he is there": 2,
        "at the end": 60,
        "never": 0,
        "one early": 3,
        "one late": 5,
    },
    "unlearned": {
        "bytes too": unlearned_with_bytes,
        "what is used": unlearned_that_are_used,
        "judged by the first text": unlearned_in_the_first_text,
        "unused in some text": unlearned_in_any_text,
        "how many": lambda tokenizer, texts: len(unlearned(tokenizer, texts)),
        "special tokens too": unlearned_with_special,
        "backwards": lambda tokenizer, texts: unlearned(tokenizer, texts)[::-1],
    },
}
