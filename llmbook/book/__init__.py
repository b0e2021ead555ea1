"""What makes chapters a book: the start of a chapter, claims, exercises, execution, pages.

A chapter uses five names: `start`, `predict`, `claim`, `check` and `recorded`.
"""

from llmbook.book.chapter import start
from llmbook.book.check import check
from llmbook.book.claims import claim
from llmbook.book.predictions import predict
from llmbook.book.records import recorded

__all__ = ["check", "claim", "predict", "recorded", "start"]
