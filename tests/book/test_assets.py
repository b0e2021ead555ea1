"""Web files are the pinned ones or none, arrive whole or not at all, and fall back with a word."""

import base64
import hashlib
import io
import stat
import sys
import tarfile

import pytest

from llmbook.book import assets

FILES = {
    "package/es5/tex-chtml.js": b"one",
    "package/README.md": b"left out",
    "package/es5/../../../escaped.js": b"outside",
}


def tarball():
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A machine whose npm hands out one tarball, and counts how often it is asked."""
    bin_, data = tmp_path / "bin", tarball()
    bin_.mkdir()
    (tmp_path / "pack.tgz").write_bytes(data)
    npm = bin_ / "npm"
    npm.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        f"home = pathlib.Path({str(tmp_path)!r})\n"
        "with open(home / 'asked', 'a') as log: log.write(sys.argv[2] + '\\n')\n"
        "into = [a.split('=', 1)[1] for a in sys.argv if a.startswith('--pack-destination=')][0]\n"
        "if 'gone' in sys.argv[2]: sys.exit(1)\n"
        "shutil.copy(home / 'pack.tgz', into)\n"
    )
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(bin_))
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return tmp_path, tuple(
        assets.Package(name, "1.0", digest, r"es5/.+", folder)
        for name, folder in (("a", "mathjax"), ("b", "requirejs"), ("c", "html-manager"))
    )


def asked(home):
    return (home / "asked").read_text().split() if (home / "asked").exists() else []


def test_only_files_that_pages_load_are_unpacked_and_none_outside(shelf):
    home, packages = shelf
    web = assets.obtain(home / "build", packages)
    files = {
        p.relative_to(web.folders[1]).as_posix() for p in web.folders[1].rglob("*") if p.is_file()
    }
    assert files == {f"vendor/{p.folder}/es5/tex-chtml.js" for p in packages}
    assert web.offline and not list(home.rglob("escaped.js"))


def test_what_is_there_is_not_fetched_again(shelf):
    home, packages = shelf
    first = assets.obtain(home / "build", packages)
    assert assets.obtain(home / "build", packages) == first
    assert asked(home) == ["a@1.0", "b@1.0", "c@1.0"]


def test_another_package_than_the_pinned_one_is_refused(shelf):
    home, packages = shelf
    (home / "pack.tgz").write_bytes(tarball() + b"\0")
    with pytest.raises(
        assets.AssetError, match=r"a@1.0 from npm is not the pinned package: got sha512-.+expected"
    ):
        assets.obtain(home / "build", packages)
    assert not list((home / "build" / "web").glob("npm-*"))


def test_a_package_that_cannot_be_had_leaves_no_half_folder(shelf):
    home, packages = shelf
    packages = (*packages[:2], assets.Package("gone", "2.0", "x", ".*", "html-manager"))
    web = assets.obtain(home / "build", packages)
    assert not web.offline and "npm pack gone@2.0 failed with exit status 1" in web.message
    assert [p.name.split("-")[0] for p in (home / "build" / "web").iterdir()] == ["anywidget"]


def test_without_npm_the_pinned_public_addresses_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    web = assets.obtain(tmp_path / "build")
    assert not web.offline and "npm was not found" in web.message and "\n" not in web.message
    for address, package in zip(
        (web.mathjax, web.requirejs, web.html_manager), assets.PACKAGES, strict=True
    ):
        assert address.startswith(f"{assets.CDN}{package.name}@{package.version}/")


def test_anywidgets_own_file_comes_from_its_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = assets.obtain(tmp_path / "build").folders[0]
    assert "define([" in (folder / "vendor" / "anywidget" / "index.js").read_text(encoding="utf-8")
