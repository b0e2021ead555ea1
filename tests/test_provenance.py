"""What a recorded result says of itself."""

import datetime
import platform
import subprocess

import pytest
import torch

import llmbook
from llmbook import provenance


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package in it: git(…) → what it prints, and the package's folder."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1\n")
    (tmp_path / "README").write_text("text\n")
    (tmp_path / ".gitignore").write_text("runs/\n")

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        answer = subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git, package


def test_a_clean_checkout_is_its_commit_in_full(checkout):
    git, package = checkout
    assert provenance.commit(package) == git("rev-parse", "HEAD")
    assert len(provenance.commit(package)) == 40


@pytest.mark.parametrize("file", ["package/a.py", "README"])
def test_a_changed_file_makes_it_dirty_wherever_it_is(checkout, file):
    git, package = checkout
    (package.parent / file).write_text("changed\n")
    assert provenance.commit(package) == git("rev-parse", "HEAD") + "-dirty"


def test_a_new_file_of_the_package_makes_it_dirty_but_a_run_s_output_does_not(checkout):
    git, package = checkout
    for harmless in ("runs", "notes"):
        (package.parent / harmless).mkdir()
        (package.parent / harmless / "log.csv").write_text("1\n")
    assert provenance.commit(package) == git("rev-parse", "HEAD")
    (package / "b.py").write_text("2\n")
    assert provenance.commit(package) == git("rev-parse", "HEAD") + "-dirty"


def test_outside_of_a_checkout_or_in_somebody_else_s_the_commit_is_unknown(checkout, tmp_path):
    git, package = checkout
    installed = package.parent / "runs" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "c.py").write_text("3\n")
    assert provenance.commit(installed) == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setattr(provenance.shutil, "which", lambda name: None)
    assert provenance.commit() == "unknown"


def test_a_record_names_hardware_versions_threads_date_and_commit():
    facts = provenance.machine("cpu")
    assert list(facts) == ["hardware", "versions", "threads", "date", "commit"]
    assert "cores seen" in facts["hardware"]
    assert facts["versions"]["llmbook"] == llmbook.__version__
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    date = datetime.datetime.fromisoformat(facts["date"])
    assert date.utcoffset() == datetime.timedelta(0)
    assert abs((datetime.datetime.now(datetime.UTC) - date).total_seconds()) < 60


def test_versions_are_told_in_one_line():
    assert provenance.in_words({"llmbook": "0.1.0", "torch": "2"}) == "llmbook 0.1.0, torch 2"


def test_a_command_line_can_be_pasted_into_a_shell():
    line = provenance.command_line("record", "families", "--out", "a b", 3)
    assert line == "python -m llmbook record families --out 'a b' 3"
