"""Solutions of the exercises on tokenization, and wrong answers of students."""

import math
from collections import Counter


def pair_counts(words):
    counts = Counter()
    for word, n in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += n
    return counts


def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


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


def share(vocab_size, d_model, layers, tied):
    table = vocab_size * d_model * (1 if tied else 2)
    return table / (table + 12 * layers * d_model**2)


SOLUTIONS = {
    "pair_counts": pair_counts, "merge": merge, "bpe": bpe, "longest_match": longest_match,
    "bits_per_byte": bits_per_byte, "share": share,
}


def pairs_of_distinct_words(words):
    return Counter(pair for word in words for pair in zip(word, word[1:]))


def pairs_of_the_joined_text(words):
    text = [c for word, n in words.items() for _ in range(n) for c in word]
    return Counter(zip(text, text[1:]))


def pairs_that_do_not_overlap(words):
    counts = Counter()
    for word, n in words.items():
        for i in range(0, len(word) - 1, 2):
            counts[word[i], word[i + 1]] += n
    return counts


def pairs_once_a_word(words):
    counts = Counter()
    for word, n in words.items():
        for pair in set(zip(word, word[1:])):
            counts[pair] += n
    return counts


def pairs_without_order(words):
    counts = Counter()
    for word, n in words.items():
        for pair in zip(word, word[1:]):
            counts[tuple(sorted(pair))] += n
    return counts


def pairs_of_all_letters(words):
    counts = Counter()
    for word, n in words.items():
        for i, a in enumerate(word):
            for b in word[i + 1:]:
                counts[a, b] += n
    return counts


def merge_the_first_place_only(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2:]
    return ids


def merge_and_use_a_token_twice(ids, pair, new):
    out = []
    for i, token in enumerate(ids):
        if i + 1 < len(ids) and (token, ids[i + 1]) == pair:
            out.append(new)
        elif not (i > 0 and (ids[i - 1], token) == pair):
            out.append(token)
    return out


def merge_and_lose_the_last(ids, pair, new):
    out, i = [], 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def merge_either_order(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) in (pair, pair[::-1]):
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def merge_but_step_by_one(ids, pair, new):
    out = []
    for i in range(len(ids)):
        out.append(new if tuple(ids[i : i + 2]) == pair else ids[i])
    return out


def merge_from_the_right(ids, pair, new):
    return merge(ids[::-1], pair[::-1], new)[::-1]


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


WRONG = {
    "pair_counts": {
        "each word once, whatever its count": pairs_of_distinct_words,
        "pairs across the edge of words": pairs_of_the_joined_text,
        "every second pair is skipped": pairs_that_do_not_overlap,
        "a pair counts once a word": pairs_once_a_word,
        "ab and ba are the same": pairs_without_order,
        "letters that are not neighbours": pairs_of_all_letters,
    },
    "merge": {
        "only the first place": merge_the_first_place_only,
        "a token is used twice": merge_and_use_a_token_twice,
        "the last token is lost": merge_and_lose_the_last,
        "the pair in either order": merge_either_order,
        "a step of one after a merge": merge_but_step_by_one,
        "from the right": merge_from_the_right,
    },
    "bpe": {
        "whatever merges first from the left": bpe_from_the_left,
        "the longest known token first": bpe_longest_token_first,
        "the merge learned last first": bpe_latest_merge_first,
        "one merge and no more": bpe_one_merge_only,
        "each merge at one place only": bpe_each_merge_at_one_place,
        "no merge at all": bpe_characters,
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
    "share": {
        "over all else, not over the whole":
            lambda v, d, n, tied: v * d * (1 if tied else 2) / (12 * n * d**2),
        "tied and untied swapped": lambda v, d, n, tied: share(v, d, n, not tied),
        "always one table": lambda v, d, n, tied: share(v, d, n, True),
        "layers forgotten": lambda v, d, n, tied: share(v, d, 1, tied),
        "d_model not squared": lambda v, d, n, tied: v * d / (v * d + 12 * n * d),
        "in percent": lambda v, d, n, tied: 100 * share(v, d, n, tied),
    },
}
