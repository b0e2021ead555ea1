"""The checks of every chapter's exercises, one module a chapter; `llmbook.book.check` runs them."""
