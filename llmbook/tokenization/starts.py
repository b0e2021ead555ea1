"""What a piece begins as before any merging, character by character: an id, bytes, or unknown.

A character that the vocabulary lacks becomes its bytes' tokens, "<0xE7>" and the like, where
byte fallback is on and all are there; else the unknown token, neighbours together one where
`fuse_unk` is on; without an unknown token it is dropped.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """What becomes of characters that the vocabulary lacks."""

    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False


def start_ids(characters, vocab, unknown):
    """Ids before merging. characters: a text; vocab: dict from text to id; unknown: `Unknown`."""
    ids, waiting = [], None
    for character in characters:
        known = vocab.get(character)
        if known is not None:
            if waiting is not None:
                ids.append(waiting)
                waiting = None
            ids.append(known)
            continue
        if unknown.byte_fallback:
            several = [vocab.get(f"<0x{byte:02X}>") for byte in character.encode()]
            if None not in several:
                ids += several
                continue
        if unknown.unk_token is not None:
            if waiting is not None and not unknown.fuse_unk:
                ids.append(waiting)
            waiting = vocab[unknown.unk_token]
    return ids if waiting is None else [*ids, waiting]
