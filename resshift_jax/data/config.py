"""The settings of the images to train with, which YAML calls `data`: frozen dataclasses."""

import math
from dataclasses import dataclass
from typing import Annotated

from resshift_jax.data.squares import FLIPS, METHODS
from resshift_jax.settings import require, require_positive

TFDS_PREFIX = "tfds:"


class InputError(ValueError):
    """Images that cannot be trained with as the configuration says; one line, which says why."""


@dataclass(frozen=True)
class SourceConfig:
    """One set of images, or of pairs of images.

    Attributes:
        path: a folder, with its sub-folders; a text file that lists images, one a line, by paths
            from its own folder; or `tfds:NAME[/SPLIT]`, a prepared set of TensorFlow Datasets,
            as tfds:div2k/bicubic_x4/train[:50%].
        lq: folder with the low-quality image of each, under the same name.
        weight: how often its images are seen, beside the weights of the other sources; None: their
            number, so that each image of all sources is seen equally often.
        kind: what its images are, for the log: "photographs", "textures"; None: its path.
        data_dir: where TensorFlow Datasets has its sets; None: its own default.
    """

    path: str
    lq: str | None = None
    weight: float | None = None
    kind: str | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.path), "data.sources.path: none given, name a folder of images")
        if self.weight is not None:
            require_positive("data.sources", self, "weight")
        if self.is_tfds:
            require(
                self.lq is None,
                f"data.sources.lq: {self.lq} given, but {self.path} cannot be paired with a folder",
            )
        else:
            require(
                self.data_dir is None,
                f"data.sources.data_dir: {self.data_dir} given, but {self.path} is none of "
                f"TensorFlow Datasets, whose names begin with {TFDS_PREFIX}",
            )

    @property
    def is_tfds(self) -> bool:
        return self.path.startswith(TFDS_PREFIX)


@dataclass(frozen=True)
class CropConfig:
    """How an image becomes a square of `size` pixels.

    Attributes:
        method: "square" cuts a square of the short side at a random offset and reduces it by area
            averages; "resized" resizes the short side to `size`, bicubically, and crops at a random
            offset; "random" crops at a random offset. Images that are too small are mirrored.
        flips: "horizontal" mirrors half of the images, "dihedral" turns, too: all eight ways.
        max_reduction: for "random", squares of up to this many times `size` are cut, drawn
            uniformly, and reduced by area averages; 1: none is. It shows the network more scales
            than the images have, and sharper pixels where they are soft. Pairs keep their pixels.
    """

    method: Annotated[str, METHODS] = "square"
    size: int = 256
    flips: Annotated[str, FLIPS] = "horizontal"
    max_reduction: float = 1.0

    def __post_init__(self) -> None:
        require_positive("data.crop", self, "size")
        for name, known in (("method", METHODS), ("flips", FLIPS)):
            value = getattr(self, name)
            require(
                value in known,
                f"data.crop.{name}: {value!r} given, one of {', '.join(known)} needed",
            )
        require(
            1 <= self.max_reduction < math.inf,
            f"data.crop.max_reduction: {self.max_reduction} given, 1 or more needed",
        )
        require(
            self.max_reduction == 1 or self.method == "random",
            f"data.crop.max_reduction: {self.max_reduction} given, but the method "
            f'{self.method!r} has a size of its own to reduce: 1 or "random" needed',
        )


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and how they are read.

    None of `threads`, `workers` and `prefetch` changes what is read.

    Attributes:
        sources: sets of images, or of pairs, that are mixed by their weights.
        threads: that read, where there are no workers.
        workers: processes that read in their place; 0: none. They start within seconds, and are
            worth it where decoding keeps this process from its work.
        prefetch: batches that are read ahead; one a thread or process at least.
        max_unreadable: share of the images that may be unreadable, though 10 always may.
    """

    sources: tuple[SourceConfig, ...] = ()
    crop: CropConfig = CropConfig()
    threads: int = 8
    workers: int = 0
    prefetch: int = 4
    max_unreadable: float = 0.05

    def __post_init__(self) -> None:
        require_positive("data", self, "threads", "prefetch")
        require(self.workers >= 0, f"data.workers: {self.workers} given, 0 or more needed")
        require(
            math.isfinite(self.max_unreadable) and 0 <= self.max_unreadable <= 1,
            f"data.max_unreadable: {self.max_unreadable} given, a share from 0 to 1 needed",
        )
