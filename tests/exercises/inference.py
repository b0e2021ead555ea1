"""Solutions of the exercises on inference, and wrong answers of students."""


def held_back(text, stop):
    if stop in text:
        return text[: text.index(stop)]
    for k in range(min(len(stop), len(text)), 0, -1):
        if text.endswith(stop[:k]):
            return text[:-k]
    return text


def cache_size(tokens, layers, windowed, window, n_kv_heads, head_dim):
    held = (layers - windowed) * tokens
    held += windowed * min(tokens, window)
    return held * 2 * n_kv_heads * head_dim * 2


def clock(text):
    if len(text) == 0:
        return "012"
    if len(text) == 1:
        return "0123" if text == "2" else "0123456789"
    if len(text) == 2:
        return ":"
    if len(text) == 3:
        return "012345"
    return "0123456789" if len(text) == 4 else ""


SOLUTIONS = {
    "held_back": held_back,
    "cache_size": cache_size,
    "passes": 1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4,
    "left": 4,
    "clock": clock,
}


# --- wrong answers


def held_everything(text, stop):
    return text


def held_a_fixed_length(text, stop):
    return text[: text.index(stop)] if stop in text else text[: max(0, len(text) - len(stop) + 1)]


def held_the_shortest_end(text, stop):
    if stop in text:
        return text[: text.index(stop)]
    for k in range(1, min(len(stop), len(text)) + 1):
        if text.endswith(stop[:k]):
            return text[:-k]
    return text


def held_with_the_stop_shown(text, stop):
    return text[: text.index(stop) + len(stop)] if stop in text else held_back(text, stop)


def held_by_the_first_character(text, stop):
    if stop in text:
        return text[: text.index(stop)]
    return text[: text.index(stop[0])] if stop[0] in text else text


def held_at_the_last_stop(text, stop):
    if text.endswith(stop):
        return text[: -len(stop)]
    return held_back(text, stop) if stop not in text else text


def held_from_the_last_stop_on(text, stop):
    return text[: text.rindex(stop)] if stop in text else held_back(text, stop)


def size_without_values(tokens, layers, windowed, window, n_kv_heads, head_dim):
    return cache_size(tokens, layers, windowed, window, n_kv_heads, head_dim) // 2


def size_of_numbers_not_bytes(tokens, layers, windowed, window, n_kv_heads, head_dim):
    return cache_size(tokens, layers, windowed, window, n_kv_heads, head_dim) / 2 + 1


def size_without_windows(tokens, layers, windowed, window, n_kv_heads, head_dim):
    return layers * tokens * 2 * n_kv_heads * head_dim * 2


def size_of_windows_always_full(tokens, layers, windowed, window, n_kv_heads, head_dim):
    held = (layers - windowed) * tokens + windowed * window
    return held * 2 * n_kv_heads * head_dim * 2


def size_of_windows_everywhere(tokens, layers, windowed, window, n_kv_heads, head_dim):
    return layers * min(tokens, window) * 2 * n_kv_heads * head_dim * 2


def size_with_kinds_exchanged(tokens, layers, windowed, window, n_kv_heads, head_dim):
    return cache_size(tokens, layers, layers - windowed, window, n_kv_heads, head_dim)


def clock_of_any_digits(text):
    return ":" if len(text) == 2 else "0123456789" if len(text) < 5 else ""


def clock_up_to_29(text):
    return "0123456789" if len(text) == 1 else clock(text)


def clock_with_minutes_up_to_99(text):
    return "0123456789" if len(text) == 3 else clock(text)


def clock_that_never_ends(text):
    return clock(text) or ":"


def clock_without_a_colon(text):
    return "012345" if len(text) == 2 else clock(text)


def clock_of_twelve_hours(text):
    return {0: "01", 1: "012" if text == "1" else "0123456789"}.get(len(text), clock(text))


WRONG = {
    "held_back": {
        "everything shown": held_everything,
        "a fixed length": held_a_fixed_length,
        "the shortest end": held_the_shortest_end,
        "the stop shown": held_with_the_stop_shown,
        "from the first character on": held_by_the_first_character,
        "a stop in the middle": held_at_the_last_stop,
        "the last of two stops": held_from_the_last_stop_on,
    },
    "cache_size": {
        "keys alone": size_without_values,
        "numbers, not bytes": size_of_numbers_not_bytes,
        "no windows": size_without_windows,
        "windows always full": size_of_windows_always_full,
        "windows everywhere": size_of_windows_everywhere,
        "kinds exchanged": size_with_kinds_exchanged,
    },
    "passes": {
        "the most": 5,
        "four times 0.8": 4 * 0.8,
        "all or nothing": 1 + 4 * 0.8**4,
        "without the model's own": 0.8 + 0.8**2 + 0.8**3 + 0.8**4,
        "for ever": 1 / (1 - 0.8) + 0.01,
        "one power less": 1 + 0.8 + 0.8**2 + 0.8**3,
    },
    "left": {
        "all": 384,
        "half of them": 384 // 2,
        "the likeliest": 1,
        "one too many": 4 + 1,
        "by top-p 0.9": 22,
        "none": 0,
    },
    "clock": {
        "any digits": clock_of_any_digits,
        "hours up to 29": clock_up_to_29,
        "minutes up to 99": clock_with_minutes_up_to_99,
        "never ends": clock_that_never_ends,
        "no colon": clock_without_a_colon,
        "twelve hours": clock_of_twelve_hours,
    },
}
