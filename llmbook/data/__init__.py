"""Text and data: the corpus that is on every machine, larger sets to download, batching.

`documentation()` and `question_answers()` need nothing but what is installed. `fetch(name)` and
the readers named after the sets get pinned files, from `LLMBOOK_DATA` or the network, when called.
Generated tasks are in `llmbook.data.tasks`.
"""

from llmbook.data.catalogue import DOWNLOADS, Download
from llmbook.data.corpus import (
    Corpus,
    Document,
    QuestionAnswer,
    documentation,
    question_answers,
    split_of,
)
from llmbook.data.downloads import DamagedFile, DownloadFailed, available, fetch
from llmbook.data.folders import cache_folder, data_folder, resolve_folders
from llmbook.data.packing import batches
from llmbook.data.sets import (
    emergence,
    instructions,
    isoflops,
    multi30k,
    preferences,
    sst2,
    tiny_shakespeare,
    wnut17,
)

__all__ = [
    "DOWNLOADS",
    "Corpus",
    "DamagedFile",
    "Document",
    "Download",
    "DownloadFailed",
    "QuestionAnswer",
    "available",
    "batches",
    "cache_folder",
    "data_folder",
    "documentation",
    "emergence",
    "fetch",
    "instructions",
    "isoflops",
    "multi30k",
    "preferences",
    "question_answers",
    "resolve_folders",
    "split_of",
    "sst2",
    "tiny_shakespeare",
    "wnut17",
]
