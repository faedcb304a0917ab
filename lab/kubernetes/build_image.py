# SPDX-License-Identifier: Apache-2.0
"""The images that are deployed, built by buildah from deploy/Dockerfile without a registry, kept in the user's cache.

An archive is kept by a digest of everything that goes into it, so a second call takes no time; layers are kept too, so
a change of Python code takes seconds.  Certificates, pip's settings and proxies of this machine are lent to the build
and are in no layer.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.image import write_image
from lab.kubernetes.images import debian
from lab.kubernetes.programs import CACHE
from lab.namespace import CommandError, run
from lab.progress import progress

_SOURCE = Path(__file__).parents[2]
_DOCKERFILE = Path("deploy/Dockerfile")

_CONTEXTS = {
    "ilanet": (".dockerignore", "Makefile", "requirements.txt", "agent", "cni", "controller", "ila", "proto"),
    "etcd": (),
}
"""What the targets copy: what .dockerignore lets through, and itself."""

_BASE_PACKAGES = ("ca-certificates", "usr-is-merged")
"""With the first in place apt leaves /etc/ssl/certs alone, where this machine's certificates are mounted meanwhile."""

_LENT = ("/etc/ssl/certs", "/etc/pip.conf")
"""Files and folders of this machine that the build may read."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")

_APART = 'mount --bind "$1" /var/lib; shift; exec "$@"'
"""In a mount namespace of its own, with which goes what a build that fails leaves mounted; /var/lib is hidden there
because buildah always writes its cache of blobs into /var/lib/containers."""

_KEPT = 4
"""Archives of one target that stay, the newest: each is a few hundred megabytes."""

_PATIENCE = 1800.0
"""Seconds that a build may take, on a loaded machine with a slow mirror."""


def version() -> str:
    """Return the version that the images' tags have."""
    return str(tomllib.loads((_SOURCE / "pyproject.toml").read_text())["project"]["version"])


def images(say: Callable[[str], None]) -> dict[str, Path]:
    """Build what is missing, tell `say` of it, and return the archives by the images' full names.

    CommandError quotes what buildah said.  Two calls at the same time wait for each other.
    """
    base = debian(say, _BASE_PACKAGES)
    return {_name(target): _archive(say, target, base) for target in _CONTEXTS}


def _archive(say: Callable[[str], None], target: str, base: Path) -> Path:
    """Return the archive of one image, kept by the digest of what goes into it."""
    with tempfile.TemporaryDirectory(prefix="ilanet-image.") as directory:
        context = Path(directory)
        _copy(_CONTEXTS[target], context)
        place = CACHE / f"images/ilanet-{target}-{_digest(context, base)}.tar"
        if not place.exists():
            with _store() as store:
                if place.exists():  # somebody else has built it meanwhile
                    return place
                say(f"building the image {target}, kept until what goes into it changes")
                store.build(target, base=base, context=context, place=place)
                for old in _oldest(place.parent.glob(f"ilanet-{target}-*.tar")):
                    old.unlink()
    return place


def _oldest(archives: Iterable[Path]) -> list[Path]:
    return sorted(archives, key=lambda archive: archive.stat().st_mtime, reverse=True)[_KEPT:]


def size(archive: Path) -> int:
    """Return the bytes of an image's layers, not compressed."""
    with tarfile.open(archive) as tar:
        return sum(entry.size for entry in tar if entry.isfile() and not entry.name.endswith(".json"))


def _name(target: str) -> str:
    return f"docker.io/ilanet/{target}:{version()}"


def _copy(names: Sequence[str], context: Path) -> None:
    """Copy what goes into the image: the digest is then of what is built, also if somebody edits meanwhile."""
    for name in (*names, str(_DOCKERFILE)):
        source, place = _SOURCE / name, context / name
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(source, place)


def _digest(context: Path, base: Path) -> str:
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    recipe.update(f"{base.name} {platform.machine()} {version()}".encode())
    for path in sorted(path for path in context.rglob("*") if path.is_file()):
        recipe.update(f"\0{path.relative_to(context)}\0{path.stat().st_mode:o}\0{path.stat().st_size}\0".encode())
        recipe.update(path.read_bytes())
    return recipe.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class _Store:
    """buildah's images and layers, below the cache and never in /var/lib/containers."""

    state: Path

    def build(self, target: str, *, base: Path, context: Path, place: Path) -> None:
        """Build one target and write its archive whole."""
        name = _name(target)
        lent = [word for path in _LENT if Path(path).exists() for word in ("--volume", f"{path}:{path}:ro")]
        arguments = {"BASE": self._base(base)} | {key: os.environ[key] for key in _PROXIES if key in os.environ}
        self._run(
            *("build", "--layers", "--pull-never", "--network", "host", "--format", "docker", "--target", target),
            *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")),
            *(*lent, "--label", f"org.opencontainers.image.version={version()}"),
            *("--label", "org.opencontainers.image.licenses=Apache-2.0", "--tag", name),
            *("--file", str(context / _DOCKERFILE), str(context)),
        )
        temporary = place.with_name(f".{os.getpid()}.{place.name}")
        try:
            self._run("push", "--quiet", name, f"docker-archive:{temporary}:{name}")
            temporary.rename(place)
        finally:
            temporary.unlink(missing_ok=True)

    def _base(self, root: Path) -> str:
        """Return the name of the image that all stages begin with; made of the root if it is not there."""
        name = f"localhost/ilanet/{root.stem}:1"
        try:
            self._run("inspect", "--type", "image", name)
        except CommandError:
            archive = self.state / "base.tar"
            write_image(archive, name=name, root=root)
            self._run("pull", "--quiet", f"docker-archive:{archive}")
            archive.unlink()
        return name

    def _run(self, *words: str) -> str:
        settings = {"BUILDAH_ISOLATION": "chroot", "CONTAINERS_STORAGE_CONF": self.state / "storage.conf"}
        return run(
            *("env", f"TMPDIR={self.state}", *(f"{key}={value}" for key, value in settings.items())),
            *("unshare", "--mount", "sh", "-euc", _APART, "apart", str(self.state), "buildah", *words),
            timeout=_PATIENCE,
        )


@contextmanager
def _store() -> Iterator[_Store]:
    """Open the store for one process at a time; what holds for one run lies in a folder that goes with it."""
    place = CACHE / "containers"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=place, prefix="run.") as state:
        fcntl.flock(lock, fcntl.LOCK_EX)
        driver = "overlay" if _overlay_works(Path(state)) else "vfs"
        settings = {"driver": driver, "graphroot": str(place / driver), "runroot": f"{state}/run"}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        (Path(state) / "storage.conf").write_text("".join(["[storage]\n", *lines]))
        yield _Store(Path(state))


def _overlay_works(directory: Path) -> bool:
    """Tell whether an overlay can be mounted on this file system; where not, each layer is a whole copy."""
    parts = {name: directory / f"overlay-{name}" for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    try:
        run("unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"]))
    except CommandError:
        return False
    return True


def main() -> None:
    """Build the images and say how large they are."""
    for name, archive in images(progress).items():
        progress(f"{name}: {size(archive) / 1e6:.0f} MB of layers, {archive}")


if __name__ == "__main__":
    main()
