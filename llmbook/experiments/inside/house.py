"""Walks through a house, as sequences of letters: a world whose state is never written down.

Sixteen rooms, four by four, and twenty doors between neighbours; each door bears one of six
letters, the same on both sides, and no room has two doors of one letter. A walk begins in room 0
and takes one of the room's doors each time, drawn evenly. Only the letters are written. In which
room the walker stands, and so which letters may come next, has to be worked out from all of them:
single letters say little, as each is on doors all over the house.
"""

from dataclasses import dataclass

import torch

from llmbook.seeds import generator

SIDE, ROOMS = 4, 16
LETTERS = "ABCDEF"
DOORS = {
    "A": ((2, 6), (8, 9), (11, 15)),
    "B": ((4, 5), (7, 11), (8, 12), (13, 14)),
    "C": ((0, 4), (1, 2), (3, 7)),
    "D": ((2, 3), (6, 10), (9, 13), (14, 15)),
    "E": ((0, 1), (6, 7), (10, 14)),
    "F": ((1, 5), (9, 10), (12, 13)),
}
START, LENGTH = len(LETTERS), 24  # the token before the first letter; letters of a walk


def _leads():
    """(ROOMS, letters) int64: the room behind each door, −1 where there is none."""
    table = torch.full((ROOMS, len(LETTERS)), -1)
    for letter, pairs in DOORS.items():
        for a, b in pairs:
            table[a, LETTERS.index(letter)], table[b, LETTERS.index(letter)] = b, a
    return table


LEADS = _leads()
OPEN = LEADS >= 0  # (ROOMS, letters): which doors a room has


@dataclass(frozen=True)
class Walks:
    """letters (walks, LENGTH) int64; rooms (walks, LENGTH): where the walker is before each."""

    letters: torch.Tensor
    rooms: torch.Tensor

    @property
    def ids(self):
        """What a model reads: START, then the letters but the last."""
        return torch.cat([torch.full_like(self.letters[:, :1], START), self.letters[:, :-1]], 1)

    @property
    def open(self):
        """Which letters may come: (walks, LENGTH, letters) bool."""
        return OPEN[self.rooms]

    def __getitem__(self, rows):
        return Walks(self.letters[rows], self.rooms[rows])


def follow(letters):
    """The rooms before each of some letters (walks, n) and after the last: (walks, n + 1).

    Raises ValueError for a letter that the room has no door of.
    """
    rooms = [torch.zeros(len(letters), dtype=torch.int64)]
    for column in letters.T:
        rooms.append(LEADS[rooms[-1], column])
        if (rooms[-1] < 0).any():
            raise ValueError("letters must be of doors that there are: got one that is not")
    return torch.stack(rooms, 1)


def draw(walks, gen, length=LENGTH):
    """Walks that take an even draw of the room's doors each time."""
    room, letters = torch.zeros(walks, dtype=torch.int64), []
    for _ in range(length):
        letter = (torch.rand(walks, len(LETTERS), generator=gen) * OPEN[room]).argmax(-1)
        letters.append(letter)
        room = LEADS[room, letter]
    letters = torch.stack(letters, 1)
    return Walks(letters, follow(letters)[:, :-1])


def held_out(letters):
    """Walks that no model is trained on: a fifth, by their first eight letters. (walks,) bool."""
    weights = torch.tensor([7**i for i in range(8)])
    return (letters[:, :8] * weights).sum(-1) * 2654435761 % 2**32 % 5 == 0


def drawn(walks, seed, what, held):
    """Exactly so many `Walks` of one side, held out or not: a function of seed and name."""
    gen, kept, count = generator(seed, what), [], 0
    while count < walks:
        some = draw(max(walks, 64), gen)
        kept.append(some.letters[held_out(some.letters) == held])
        count += len(kept[-1])
    letters = torch.cat(kept)[:walks]
    return Walks(letters, follow(letters)[:, :-1])
