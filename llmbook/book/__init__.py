"""What makes chapters a book: the start of a chapter, claims, exercises, execution, pages.

A chapter uses four names: `start`, `claim`, `check` and `recorded`.
"""

from llmbook.book.chapter import start
from llmbook.book.claims import claim, recorded
from llmbook.book.exercises import check

__all__ = ["check", "claim", "recorded", "start"]
