"""A task's name in, the released model's (configuration, parameters) out, fetched where absent."""

import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resshift_jax.config import FirstStageConfig, ModelConfig
from resshift_jax.weights import store
from resshift_jax.weights.fetch import FetchError, fetch
from resshift_jax.weights.load import cache_dir, load_weights
from resshift_jax.weights.store import Params
from resshift_jax.weights.torch.file import WeightFileError
from resshift_jax.weights.zoo import FIRST_STAGE_URLS, Released, find_releases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """A .pth that a model is made from: the stems it may have, and its address."""

    stems: tuple[str, ...]
    url: str

    @property
    def name(self) -> str:
        return f"{self.stems[0]}.pth"

    def find(self, folder: Path) -> Path | None:
        paths = (folder / f"{stem}.pth" for stem in self.stems)
        return next((path for path in paths if path.is_file()), None)


def load_released(
    task: str, version: str | None = None, *, cache: Path | None = None
) -> tuple[ModelConfig, Params]:
    """A released model by name: from the cache folder, or fetched into it.

    The .pth files are converted once. The converted file is kept beside them and has in its header
    what they were; where one of them is another by now, it is made anew. A file of that name that
    was not made here is used as it is, and never replaced. Which file is used is logged.

    Args:
        task: one of `zoo.TASKS` or `zoo.ALIASES`.
        version: by default the newest that is in the cache, or else the newest.
        cache: the folder; by default `cache_dir()`.

    Raises:
        UnknownModelError: no such task or version.
        FileNotFoundError: a model that is not published, without its file in the cache.
        FetchError: a download failed; the line says why, and which files to put where.
        OSError: the cache lacks a .pth and cannot be written to.
        ValueError: a .pth that is damaged, or is not the released network, with every mismatch.
    """
    folder = cache_dir() if cache is None else cache
    release = _choose(find_releases(task, version), folder)
    used = _converted(release, folder)
    model = _load_converted(used, release)
    if model is None:
        paths = _obtain(_sources(release), folder)
        stamps = {path.name: _stamp(path) for path in paths}
        model = _load_torch(paths, release)
        try:
            store.save(used, *model, notes={"sources": json.dumps(stamps)})
        except OSError as e:
            reason = _first_line(e)
            logger.warning("%s: not kept, so the next run converts again (%s)", used, reason)
            used = paths[0]
    logger.info("weights: %s", used)
    return model


def obtain_first_stage(stage: FirstStageConfig, *, cache: Path | None = None) -> Path:
    """The .pth of a released autoencoder: from the cache folder, or fetched into it.

    Raises:
        FileNotFoundError: one that is not published and not there.
        FetchError, OSError: as `load_released`.
    """
    return _obtain((_first_stage(stage),), cache_dir() if cache is None else cache)[0]


def _choose(releases: list[Released], folder: Path) -> Released:
    """The newest release that is in the folder, or else the newest."""
    for release in reversed(releases):
        if _converted(release, folder).is_file() or _sources(release)[0].find(folder):
            return release
    return releases[-1]


def _sources(release: Released) -> tuple[_Source, ...]:
    """The network's file, and the first stage's where that has parameters."""
    stage = release.config.first_stage
    network = _Source((release.file, *release.earlier), release.url)
    return (network, _first_stage(stage)) if stage.has_params else (network,)


def _first_stage(stage: FirstStageConfig) -> _Source:
    return _Source((stage.name,), FIRST_STAGE_URLS.get(stage.name, ""))


def _converted(release: Released, folder: Path) -> Path:
    return folder / f"{release.file}.safetensors"


def _load_converted(path: Path, release: Released) -> tuple[ModelConfig, Params] | None:
    """The model of a converted file, or None where there is none to be used.

    Raises:
        ValueError: a file that was not made here, and so is not made anew, does not fit.
    """
    if not path.is_file():
        return None
    ours = True
    try:
        sources = store.load_notes(path).get("sources")
        ours = sources is not None
        changed = _changed(json.loads(sources), release, path.parent) if sources else ""
        if not changed:
            return load_weights(path, expected=release.config)
        logger.warning("%s: made anew, for %s has changed", path, changed)
    except (OSError, ValueError) as e:
        if not ours:
            raise
        reason = _first_line(e).removeprefix(f"{path}: ")
        logger.warning("%s: made anew, for it cannot be used (%s)", path, reason)
    return None


def _changed(recorded: object, release: Released, folder: Path) -> str:
    """A .pth that is not what a converted file was made from; empty if there is none."""
    if not isinstance(recorded, dict):
        raise ValueError("its header does not tell its sources")
    found = [source.find(folder) for source in _sources(release)]
    return next((p.name for p in found if p and recorded.get(p.name) != _stamp(p)), "")


def _stamp(path: Path) -> list[int]:
    """What changes when a file does."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _load_torch(paths: list[Path], release: Released) -> tuple[ModelConfig, Params]:
    network, *stage = paths
    first_stage = stage[0] if stage else None
    try:
        return load_weights(network, first_stage=first_stage, expected=release.config)
    except WeightFileError as e:
        if not release.url:
            raise
        raise WeightFileError(f"{e}; delete it, and the next run fetches it anew") from e


def _obtain(sources: Sequence[_Source], folder: Path) -> list[Path]:
    """The .pth files of these sources, fetched where they are absent."""
    absent = [source for source in sources if not source.find(folder)]
    for source in absent:
        if not source.url:
            raise FileNotFoundError(
                f"{source.name}: trained by users and not published; put {source.name} into "
                f"{folder}, or give a file with weights=FILE"
            )
    if absent:
        pages = dict.fromkeys(source.url.partition("/releases/")[0] for source in absent)
        logger.warning(
            "the weights are published for non-commercial use only, see %s; they are kept in %s",
            " and ".join(pages),
            folder,
        )
    while absent:
        _fetch(absent, folder)
        absent.pop(0)
    return [source.find(folder) or folder / source.name for source in sources]


def _fetch(absent: list[_Source], folder: Path) -> None:
    """Fetches the first of the sources that are absent."""
    source = absent[0]
    try:
        fetch(source.url, folder / source.name, check=_check_archive)
    except FetchError as e:
        names = " and ".join(source.name for source in absent)
        raise FetchError(f"{e}; or put {names} into {folder}") from e
    except OSError as e:
        raise OSError(f"{e}; make room there, or name another folder in $RESSHIFT_CACHE") from e


def _check_archive(path: Path) -> None:
    """Reads a whole .pth, for a download may have gone wrong anywhere in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as e:  # zipfile raises many kinds on damaged headers
        raise WeightFileError(f"no zip archive as a .pth is, {e}") from e
    if damaged is not None:
        raise WeightFileError(f"the checksum of {damaged} in it is wrong")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
