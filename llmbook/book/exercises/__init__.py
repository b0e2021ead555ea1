"""The checks of every chapter's exercises, one module a chapter; `book/check.py` runs them."""
