"""The name of a prepared set of TensorFlow Datasets in, its images out; without TensorFlow."""

import difflib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from resshift_jax.console import printable
from resshift_jax.data.config import TFDS_PREFIX, InputError, SourceConfig
from resshift_jax.image_io.photo import ImageFileError

FORMAT = "array_record"


@dataclass(frozen=True)
class TfdsSplit:
    """A split of a prepared set, of which one feature is read.

    Attributes:
        title: tfds:name/split.
        records: gives the features of a record by its number, the image as its file's bytes.
        feature: the image's.
    """

    title: str
    records: Any
    feature: str
    paired = False

    def __len__(self) -> int:
        return len(self.records)

    def name(self, i: int) -> str:
        """The split, and the number of the record."""
        return f"{self.title}[{i}]"

    def read(self, i: int) -> tuple[UInt8[np.ndarray, "H W 3"], None]:
        """(H, W, 3) uint8, upright, and None.

        Raises:
            ImageFileError: a record that cannot be read.
        """
        try:
            with Image.open(io.BytesIO(self.records[i][self.feature])) as image:
                return np.array(ImageOps.exif_transpose(image).convert("RGB")), None
        except Exception as e:  # a damaged record may be anything, to its reader or to Pillow
            reason = str(e)[:200] or type(e).__name__
            raise ImageFileError(printable(f"{self.name(i)}: damaged ({reason})")) from e


def open_tfds(config: SourceConfig) -> TfdsSplit:
    """The split that `tfds:NAME[/SPLIT]` names. Nothing is downloaded or prepared.

    Raises:
        InputError: an unknown name or split, a set that is not prepared as array_record, or one
            without an image.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise InputError(
            f'{config.path}: TensorFlow Datasets is not installed: pip install "resshift-jax[tfds]"'
        ) from e
    builder, name, split = _find(tfds, config)
    title = f"{TFDS_PREFIX}{name}/{split}"
    formats = sorted(format.value for format in builder.info.available_file_formats())
    if FORMAT not in formats:
        raise InputError(
            printable(
                f"{title}: prepared as {', '.join(formats)} in {builder.data_dir}, which cannot be "
                f"read in any order; prepare it in another data_dir: {_command(name, 'OTHER')}"
            )
        )
    feature = _image_feature(tfds, title, builder.info.features)
    try:
        length = builder.info.splits[split].num_examples
        if length <= 0:
            raise InputError(printable(f"{title}: a split without images"))
        # Their own decoder would be OpenCV where that is installed, which decodes JPEG otherwise.
        records = builder.as_data_source(
            split, decoders={feature: tfds.decode.SkipDecoding()}, file_format=FORMAT
        )
    except InputError:
        raise
    except (KeyError, ValueError) as e:
        raise InputError(
            printable(f"{title}: no such split, there is {', '.join(builder.info.splits)}")
        ) from e
    return TfdsSplit(title, records, feature)


def _find(tfds: Any, config: SourceConfig) -> tuple[Any, str, str]:
    """The prepared set that was asked for, its name, and the split."""
    asked = config.path.removeprefix(TFDS_PREFIX)
    name, _, split = asked.rpartition("/")
    # The last part is a split, unless there is a set of the whole name, with its configuration.
    for candidate, its_split in ((asked, "train"), (name, split)):
        try:
            builder = tfds.core.read_only_builder.builder_from_files(
                candidate, data_dir=config.data_dir
            )
        except (tfds.core.DatasetNotFoundError, ValueError):  # none there; not a name
            continue
        return builder, candidate, its_split
    raise InputError(printable(f"{config.path}: {_why_not_found(tfds, asked, config.data_dir)}"))


def _why_not_found(tfds: Any, asked: str, data_dir: str | None) -> str:
    parts = [part.split(":")[0] for part in asked.split("/")]
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    files = folder.glob(f"{parts[0]}/**/features.json") if parts[0] else ()
    if prepared := sorted(str(file.parent.relative_to(folder)) for file in files):
        return f"not prepared in {folder}, where there is {', '.join(prepared)}"
    known = tfds.list_builders(with_community_datasets=False)
    if parts[0] not in known:
        near = difflib.get_close_matches(parts[0], known)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"no set of TensorFlow Datasets, and none prepared in {folder}{meant}"
    configured = parts[1:] and parts[1] in _configurations(tfds, parts[0])
    name = "/".join(asked.split("/")[: 2 if configured else 1])
    return f"not prepared in {folder}; prepare it: {_command(name, str(folder))}"


def _configurations(tfds: Any, name: str) -> list[str]:
    try:
        return [config.name for config in tfds.builder_cls(name).BUILDER_CONFIGS]
    except ImportError:  # the code of some sets needs more packages
        return []


def _command(name: str, data_dir: str) -> str:
    """What prepares a set. `tfds build` does the same, but only where TensorFlow is installed."""
    arguments = f"{name!r}, data_dir={data_dir!r}, file_format={FORMAT!r}"
    code = f"import tensorflow_datasets as tfds; tfds.builder({arguments}).download_and_prepare()"
    return f'python -c "{code}"'


def _image_feature(tfds: Any, title: str, features: Any) -> str:
    """The feature that is read: "image", the only image, or "hr"."""
    images: list[str] = [
        name
        for name, feature in getattr(features, "items", dict)()
        if type(feature) is tfds.features.Image and feature.np_dtype == np.uint8
    ]
    for name in ("image", *images[: len(images) == 1], "hr"):
        if name in images:
            return name
    found = ", ".join(sorted(getattr(features, "keys", list)()))
    which = (
        f"one of {', '.join(sorted(images))} must be named image or hr"
        if images
        else "no image of 8 bits"
    )
    raise InputError(printable(f"{title}: {which} among its features ({found})"))
