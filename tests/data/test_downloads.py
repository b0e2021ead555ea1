"""Downloads: whole and verified or not at all, whatever the network (a local server) does."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmbook import data
from llmbook.data import catalogue, downloads

NAME, BODY = "words.txt", b"To be, or not to be. " * 5000
BAD = {"truncated": BODY[:700], "tampered": BODY.replace(b"not", b"nay", 1), "longer": BODY + b"!"}
# Processes started here have an empty torch: it takes seconds to import, and is not needed.
NO_TORCH = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"
CHILD = """
from llmbook.data import catalogue, fetch
url, sha256, size = sys.argv[1:]
catalogue.DOWNLOADS["words.txt"] = catalogue.Download("words", url, sha256, int(size), "", "")
fetch("words.txt")
"""


class Server:
    """Answers each request with the next of `script`; the last one stays."""

    def __init__(self):
        self.script, self.requests, self.half_sent = ["whole"], 0, threading.Event()
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                script = server.script
                server.answer(self, script.pop(0) if len(script) > 1 else script[0])

            def log_message(self, *_):
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/{NAME}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler, what):
        body = BAD.get(what, BODY)
        status = what if isinstance(what, int) else 200
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if what in ("dropped", "stalled"):
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            self.half_sent.set()
            if what == "stalled":
                self.released.wait(60)
            handler.close_connection = True
        else:
            handler.wfile.write(body)

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A local server for one file, no waits, an empty cache folder and no `LLMBOOK_DATA`."""
    server = Server()
    entry = catalogue.Download("words", server.url, sha256(BODY), len(BODY), "", "")
    monkeypatch.setitem(catalogue.DOWNLOADS, NAME, entry)
    monkeypatch.setattr(downloads, "_WAITS", (0, 0, 0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMBOOK_DATA", raising=False)
    server.folder = tmp_path / "cache" / "downloads"
    yield server
    server.close()


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("LLMBOOK_DATA", str(folder))
    return folder


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def files(server):
    return sorted(path.name for path in server.folder.iterdir()) if server.folder.exists() else []


def test_a_whole_file_is_kept_and_fetched_once(server, capsys):
    assert not data.available(NAME) and not data.available("words") and server.requests == 0
    path = data.fetch(NAME)
    assert path == server.folder / NAME and path.read_bytes() == BODY
    assert data.available(NAME) and data.available("words")
    assert data.fetch(NAME) == path and server.requests == 1 and files(server) == [NAME]
    progress = capsys.readouterr().err
    assert f"{NAME}: 100% of 0.10 MB\n" in progress and "\r" not in progress


@pytest.mark.parametrize(
    "what, size, kind",
    [
        ("truncated", 700, "cut off"),
        ("tampered", len(BODY), "not the pinned file"),
        ("longer", len(BODY) + 1, "not the pinned file"),
    ],
)
def test_wrong_bytes_are_refused_and_nothing_is_kept(server, what, size, kind):
    server.script = [what]
    with pytest.raises(data.DamagedFile) as caught:
        data.fetch(NAME)
    said = str(caught.value)
    expected = f"expected {len(BODY):,} bytes with sha256 {sha256(BODY)}"
    got = f"got {size:,} bytes with sha256 {sha256(BAD[what])}"
    for words in (NAME, server.url, kind, expected, got, "Nothing was kept", "LLMBOOK_DATA"):
        assert words in said
    assert isinstance(caught.value, ValueError)
    assert files(server) == [] and server.requests == 4 and not data.available(NAME)


@pytest.mark.parametrize(
    "script",
    [
        ["dropped", "whole"],
        [503, 500, "whole"],
        [429, "whole"],
        ["tampered", "dropped", 500, "whole"],
    ],
    ids=str,
)
def test_what_passes_is_tried_again(server, script, capsys):
    server.script = list(script)
    assert data.fetch(NAME).read_bytes() == BODY
    assert server.requests == len(script) and files(server) == [NAME]
    assert capsys.readouterr().err.count("trying again") == len(script) - 1


def test_a_connection_that_always_drops_is_given_up(server):
    server.script = ["dropped"]
    with pytest.raises(data.DownloadFailed, match=r"4 attempts") as caught:
        data.fetch(NAME)
    assert server.requests == 4 and files(server) == [] and isinstance(caught.value, OSError)


def test_a_missing_file_is_said_at_once(server):
    server.script = [404]
    with pytest.raises(data.DownloadFailed) as caught:
        data.fetch(NAME)
    said = str(caught.value)
    where = f"{server.folder}; LLMBOOK_DATA is not set"
    expected = f"{len(BODY):,} bytes with sha256 {sha256(BODY)}"
    for words in (NAME, server.url, "404", "1 attempts", where, expected, "copy a whole file"):
        assert words in said
    assert server.requests == 1 and files(server) == []


def test_no_network_is_said(server, own_folder):
    server.close()
    with pytest.raises(data.DownloadFailed, match=re.escape(f"{own_folder} (LLMBOOK_DATA) or")):
        data.fetch(NAME)
    assert files(server) == []


def test_an_interrupted_download_keeps_nothing(server, monkeypatch):
    def interrupted(*_):
        assert files(server) != [], "the part is beside its place"
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads._Progress, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.fetch(NAME)
    assert files(server) == [] and not data.available(NAME)


def test_a_killed_download_leaves_no_file_and_its_part_goes_later(server):
    server.script = ["stalled", "whole", "whole"]
    arguments = [sys.executable, "-c", NO_TORCH + CHILD, server.url, sha256(BODY), str(len(BODY))]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as child:
        assert server.half_sent.wait(120), "the download never began"
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in server.folder.iterdir()):
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.02)
        child.kill()
    [part] = files(server)
    assert part != NAME and not data.available(NAME)
    assert data.fetch(NAME).read_bytes() == BODY
    assert files(server) == sorted([NAME, part]), "a young part may belong to a live process"
    os.utime(server.folder / part, (0, 0))
    (server.folder / NAME).unlink()
    data.fetch(NAME)
    assert files(server) == [NAME]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server):
    data.fetch(NAME).write_bytes(BODY[:-1] + b"?")
    assert not data.available(NAME)
    assert data.fetch(NAME).read_bytes() == BODY and server.requests == 2


def test_a_cache_that_cannot_be_written_is_said(server):
    server.folder.parent.mkdir()
    server.folder.write_text("in the way")
    with pytest.raises(data.DownloadFailed, match=r"can't be kept in .*downloads.*LLMBOOK_CACHE"):
        data.fetch(NAME)
    server.folder.unlink()
    server.folder.parent.rmdir()
    server.folder.parent.write_text("in the way")
    with pytest.raises(ValueError, match=r"LLMBOOK_CACHE\) must be a folder: got the file"):
        data.fetch(NAME)


# The reader's own folder


def test_the_own_folder_is_looked_in_first(server, own_folder):
    (own_folder / NAME).write_bytes(BODY)
    assert data.available(NAME) and data.fetch(NAME) == own_folder / NAME
    (own_folder / NAME).unlink()
    assert not data.available(NAME) and server.requests == 0
    assert data.fetch(NAME) == server.folder / NAME and server.requests == 1


@pytest.mark.parametrize("bad, kind", [(BODY[:50], "cut off"), (BODY[::-1], "not the pinned")])
def test_wrong_bytes_in_the_own_folder_are_an_error_and_no_download(server, own_folder, bad, kind):
    (own_folder / NAME).write_bytes(bad)
    for function in (data.fetch, data.available):
        with pytest.raises(data.DamagedFile) as caught:
            function(NAME)
        got = f"{len(bad):,} bytes with sha256 {sha256(bad)}"
        for words in (str(own_folder / NAME), kind, got, sha256(BODY)):
            assert words in str(caught.value)
    assert server.requests == 0 and (own_folder / NAME).read_bytes() == bad


def test_a_relative_folder_is_resolved_and_handed_on(server, own_folder, monkeypatch, tmp_path):
    (own_folder / NAME).write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMBOOK_DATA", "own")
    monkeypatch.setenv("LLMBOOK_CACHE", "../" + tmp_path.name + "/cache")
    data.resolve_folders()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert data.fetch(NAME) == own_folder / NAME
    assert os.environ["LLMBOOK_DATA"] == str(own_folder) == str(data.data_folder())
    assert data.cache_folder() == tmp_path / "cache"
    said = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ['LLMBOOK_DATA'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == str(own_folder)


def test_the_first_use_resolves_a_relative_folder(own_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMBOOK_DATA", "own")
    assert data.data_folder() == own_folder
    monkeypatch.chdir(own_folder)
    assert data.data_folder() == own_folder
    monkeypatch.setenv("LLMBOOK_DATA", "..")
    assert data.data_folder() == tmp_path, "a new value is honoured"


def test_a_folder_that_is_none_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBOOK_DATA", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="LLMBOOK_DATA must name an .*: got .*absent"):
        data.available("sst2")


# The table


def test_every_entry_is_pinned():
    assert len(data.DOWNLOADS) == 18
    address = r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/.+"
    for name, entry in data.DOWNLOADS.items():
        assert re.fullmatch(address, entry.url)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256) and entry.size > 5_000
        assert entry.licence and entry.about and "{" not in entry.about and "/" not in name
    assert len({entry.url for entry in data.DOWNLOADS.values()}) == 18
    assert len({entry.sha256 for entry in data.DOWNLOADS.values()}) == 18


@pytest.mark.parametrize("function", [data.fetch, data.available])
def test_unknown_names_are_named(function):
    with pytest.raises(ValueError, match="sst2.*got 'moby_dick'"):
        function("moby_dick")


def test_importing_touches_neither_network_nor_disk(tmp_path, fresh):
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('network!')\n"
        "socket.socket.connect = refuse\n"
        "import llmbook.data, llmbook.data.tasks\n"
        "print([m for m in ('pooch', 'requests', 'platformdirs', 'triton') if m in sys.modules])\n"
    )
    done = fresh(program, LLMBOOK_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]" and not (tmp_path / "cache").exists()


# Readers


@pytest.fixture
def pinned(own_folder, monkeypatch):
    """`pinned(name, body)`: a small file in place of a set's, pinned as the real one is."""

    def pin(name, body):
        body = gzip.compress(body.encode()) if name.endswith(".gz") else body.encode()
        (own_folder / name).write_bytes(body)
        entry = catalogue.Download("set", "http://localhost/", sha256(body), len(body), "", "")
        monkeypatch.setitem(catalogue.DOWNLOADS, name, entry)

    return pin


def test_readers_give_plain_values(pinned):
    pinned("tinyshakespeare.txt", "First Citizen:\nSpeak.\n")
    assert data.tiny_shakespeare() == "First Citizen:\nSpeak.\n"
    pinned("multi30k.val.en.gz", "A dog.\u2028Runs.\nA cat.\n")
    pinned("multi30k.val.de.gz", "Ein Hund.\nEine Kätzchen.\n")
    assert data.multi30k("validation") == [
        ("A dog.\u2028Runs.", "Ein Hund."),
        ("A cat.", "Eine Kätzchen."),
    ]
    pinned("sst2.dev.tsv", "a fine film\t1\na\ttab , and dull\t0")
    assert data.sst2("validation") == [("a fine film", 1), ("a\ttab , and dull", 0)]
    pinned("wnut17.test.conll", "Sage\tB-product\nAward\tI-product\n\t\n\nwon\tO\n")
    first = ["Sage", "Award"], ["B-product", "I-product"]
    assert data.wnut17("test") == [first, (["won"], ["O"])]
    task = {"instruction": "Add.", "input": "", "output": "2"}
    pinned("instruction-data.json", json.dumps([task]))
    assert data.instructions() == [task]
    head = "Model,ipa_transliterate_2_exact_match,ipa_transliterate_2_bleu,arithmetic_3da_2_acc\n"
    scores = "a/large,0.5,60.0,1.0\na/small,0.0,5.0,0.25\na/unknown,1.0,1.0,1.0\na/untold,0.1,,1\n"
    pinned("obsscaling.emergent.csv", head + scores)
    known = "a/large,A,20\na/small,A,2\na/unknown,A,\na/untold,A,3\n"
    pinned("obsscaling.benchmarks.csv", "Model,Model Family,FLOPs (1E21)\n" + known)
    small, large = data.emergence()
    assert (small["model"], small["flops"], small["bleu"]) == ("a/small", 2e21, 0.05)
    assert (large["match"], large["bleu"], large["addition"]) == (0.5, 0.6, 1.0)
    run = {"parameters": 5, "compute_budget": 6e18, "final_loss": 7.2}
    pinned("cs336.isoflops.json", json.dumps([run]))
    assert data.isoflops() == [run]
    judged = {"rejected": "no", **task, "chosen": "2"}
    pinned("instruction-data-with-preference.json", json.dumps([judged]))
    assert data.preferences() == [judged]
    assert list(data.preferences()[0]) == ["instruction", "input", "output", "chosen", "rejected"]


@pytest.mark.parametrize(
    "name, body, read, words",
    [
        (
            "sst2.dev.tsv",
            "fine\t1\nfine\t2\n",
            lambda: data.sst2("validation"),
            "2: .*'fine\\\\t2'",
        ),
        ("sst2.dev.tsv", "1\n", lambda: data.sst2("validation"), "sst2.dev.tsv, line 1"),
        (
            "wnut17.dev.conll",
            "a\tO\nb O\n",
            lambda: data.wnut17("validation"),
            "2: expected token",
        ),
        (
            "instruction-data.json",
            '[{"instruction": "x"}]',
            data.instructions,
            "record 1: expected",
        ),
    ],
)
def test_malformed_lines_are_named(pinned, name, body, read, words):
    pinned(name, body)
    with pytest.raises(ValueError, match=words):
        read()


def test_languages_of_unequal_length_are_refused(pinned):
    pinned("multi30k.train.en.gz", "A\nB\n")
    pinned("multi30k.train.de.gz", "A\n")
    with pytest.raises(ValueError, match="got 2 English and 1 German"):
        data.multi30k()


@pytest.mark.parametrize("reader", [data.multi30k, data.sst2, data.wnut17])
def test_unknown_splits_are_named(reader):
    with pytest.raises(ValueError, match="split must be one of train, .*test: got 'dev'"):
        reader("dev")
