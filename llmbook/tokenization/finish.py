"""What becomes of ids at the end: special tokens around them, cut off or filled up to a length.

A file's post-processor and its truncation and padding, each read as a function ids -> ids for one
text. (Two texts in one call are left to the library, which the file tells the same.)
"""


def finisher(post_processor, truncation=None, padding=None):
    """The function ids -> ids of a file's three parts, each None or an object.

    Raises ValueError naming the part that is not understood.
    """
    around = _around(post_processor, "post_processor")
    before, behind = around
    size = None if truncation is None else _whole(truncation, "truncation", "max_length")
    fill = _padding(padding)

    def run(ids, add_special_tokens=True):
        first, last = (before, behind) if add_special_tokens else ([], [])
        if size is not None:
            ids = _shortened(ids, size - len(first) - len(last), truncation)
        return fill([*first, *ids, *last])

    changes = before or behind or size is not None or padding is not None
    return run if changes else None


def _shortened(ids, room, truncation):
    if len(ids) <= room:
        return ids
    if room < 0:
        raise ValueError(f"truncation.max_length has no room for the special tokens: {truncation}")
    return ids[len(ids) - room :] if truncation.get("direction") == "Left" else ids[:room]


def _around(part, where):
    """The ids that a post-processor sets before and behind one text."""
    if part is None:
        return [], []
    if not isinstance(part, dict):
        raise ValueError(f"damaged: {where} must be an object or null, got {part!r}")
    kind = part.get("type")
    if kind == "ByteLevel":  # tells where tokens lie in the text; ids stay
        return [], []
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [_of_pair(part.get("cls"), where)], [_of_pair(part.get("sep"), where)]
    if kind == "Sequence":
        parts = part.get("processors")
        if not isinstance(parts, list):
            raise ValueError(f"damaged: {where}.processors must be a list, got {parts!r}")
        before, behind = [], []
        for place, one in enumerate(parts):
            first, last = _around(one, f"{where}.processors[{place}]")
            before, behind = first + before, behind + last
        return before, behind
    if kind == "TemplateProcessing":
        return _template(part, where)
    known = "ByteLevel, BertProcessing, RobertaProcessing, TemplateProcessing, Sequence"
    raise ValueError(f"{where}.type is {kind!r}, which is not read here: {known}")


def _template(part, where):
    sides, ids = ([], []), []
    single, known = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or not isinstance(known, dict):
        raise ValueError(f"damaged: {where} must have a list 'single' and 'special_tokens'")
    side = 0
    for piece in single:
        if not isinstance(piece, dict) or len(piece) != 1:
            raise ValueError(f"damaged: {where}.single holds {piece!r}")
        kind, value = next(iter(piece.items()))
        name = value.get("id") if isinstance(value, dict) else None
        if kind == "Sequence" and name == "A" and side == 0:
            side = 1
            continue
        token = known.get(name)
        ids = token.get("ids") if isinstance(token, dict) else None
        if kind != "SpecialToken" or not isinstance(ids, list) or not all(map(_is_id, ids)):
            raise ValueError(f"{where}.single holds {piece!r}, which is not understood here")
        sides[side].extend(ids)
    if side == 0:
        raise ValueError(f"{where}.single has no place for the text")
    return sides


def _of_pair(pair, where):
    if not isinstance(pair, list) or len(pair) != 2 or not _is_id(pair[1]):
        raise ValueError(f"damaged: {where} must name tokens as [text, id], got {pair!r}")
    return pair[1]


def _padding(part):
    if part is None:
        return lambda ids: ids
    strategy = part.get("strategy") if isinstance(part, dict) else None
    if strategy == "BatchLongest":
        length = 0
    elif isinstance(strategy, dict) and _is_id(strategy.get("Fixed")):
        length = strategy["Fixed"]
    else:
        raise ValueError(f"padding.strategy is not understood: {part!r}")
    multiple, fill = part.get("pad_to_multiple_of") or 1, part.get("pad_id", 0)
    if not _is_id(multiple) or not _is_id(fill):
        raise ValueError(f"damaged: padding is {part!r}")

    def run(ids):
        to = -(-max(len(ids), length) // multiple) * multiple
        more = [fill] * (to - len(ids))
        return more + ids if part.get("direction") == "Left" else ids + more

    return run


def _whole(part, where, key):
    value = part.get(key) if isinstance(part, dict) else None
    if not _is_id(value):
        raise ValueError(f"damaged: {where}.{key} must be a whole number, got {value!r}")
    return value


def _is_id(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
