"""Bytes as characters: how a byte-level vocabulary is written down.

Files keep tokens as text and give every byte a printable stand-in: bytes that print stand for
themselves, the others for the characters from U+0100 on, so that a space is "Ġ" and a newline "Ċ".
"""

_PRINTS = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTS]
STAND_IN = {byte: chr(byte) for byte in _PRINTS} | {
    byte: chr(0x100 + place) for place, byte in enumerate(_HIDDEN)
}
"""Byte -> the character that stands for it."""
BYTE_ORDER = _PRINTS + _HIDDEN
"""The 256 bytes in the order of their stand-ins, which is that of their ids."""
_BYTE_OF = {character: byte for byte, character in STAND_IN.items()}


def printable(token):
    """A token's bytes as files write them: `b" the"` is "Ġthe"."""
    return token.decode("latin-1").translate(STAND_IN)


def named_bytes(text):
    """The bytes that a token's name stands for; None where a character stands for no byte."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, text))
    except KeyError:
        return None


def token_bytes(text):
    """What a byte-level decoder makes of a token: its bytes, or else its text in UTF-8."""
    named = named_bytes(text)
    return text.encode() if named is None else named
