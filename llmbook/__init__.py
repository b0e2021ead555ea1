"""llmbook: the package behind an executable book on how language models work.

Each module holds one idea and is named after it: `llmbook.recurrent`, `llmbook.attention`, …
Import what you need; importing `llmbook` alone loads nothing and touches no device.
"""

__version__ = "0.1.0"
