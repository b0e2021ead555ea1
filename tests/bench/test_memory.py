"""The peak of memory: what a block takes, in a process of its own."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from llmbook.bench import memory

needs_linux = pytest.mark.skipif(not memory.is_told(), reason="Linux tells a process's peak")


def taken(megabytes):
    torch.ones(8)
    with memory.Peak() as peak:
        torch.ones(megabytes * 2**18)
    return peak.bytes / 2**20


def asked_for(name):
    return os.environ[name]


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    """A fresh process finds this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@needs_linux
def test_the_peak_is_what_the_block_took_and_let_go():
    for megabytes in (20, 60):
        found = memory.in_fresh_process(taken, megabytes)
        assert megabytes - 2 < found < megabytes + 8


def test_a_fresh_process_gets_arguments_and_variables_and_gives_back_the_result():
    assert memory.in_fresh_process(asked_for, "LLMBOOK_SAID", LLMBOOK_SAID="so") == "so"
    with pytest.raises(subprocess.CalledProcessError):
        memory.in_fresh_process(asked_for, "LLMBOOK_UNSAID")
