"""Shared by all tests: the profile that chapters run at, and the built book."""

import os

import pytest
import torch

from llmbook.data import resolve_folders

resolve_folders()  # nbval runs a chapter in its own folder
os.environ.setdefault("LLMBOOK_PROFILE", "quick")  # what profile = "auto" means in nbval's kernels
os.environ.setdefault("MPLBACKEND", "agg")

from helpers.built_book import book  # noqa: E402, F401 - a fixture
from helpers.fresh import fresh  # noqa: E402, F401 - a fixture


def pytest_configure(config):
    """For files outside this folder, too: the chapters, where there is nbval to run them."""
    if config.pluginmanager.hasplugin("nbval"):
        from helpers.answers_in_notebooks import Answers

        config.pluginmanager.register(Answers())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Chapters first: they take longest, and the other worker does the short tests meanwhile."""
    items.sort(key=lambda item: not item.nodeid.startswith("chapters/"))


@pytest.fixture(autouse=True)
def one_thread():
    """One thread before each test, whatever the last one set: two add sums in another order."""
    torch.set_num_threads(1)
