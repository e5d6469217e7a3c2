"""How images are restored: the settings in, checked; and the tiles that they cut an image into."""

from dataclasses import dataclass
from typing import get_args

from resshift_jax.chain import SAMPLERS
from resshift_jax.config import ModelConfig
from resshift_jax.inference.tiles import Blend, Grid, default_stride, make_grid


@dataclass(frozen=True)
class RestoreOptions:
    """How images are restored, from Python and by the command.

    A result depends on all of these but `batch_size`, which depends on the machine.

    Attributes:
        seed: another seed gives another sample; 0 to 2^32 - 1.
        sampling_steps: fewer steps than the model was trained with, at least 1; None: those of the
            model.
        sampler: one of `chain.SAMPLERS`; None: that of the model.
        chop_size: side of the tiles that larger images are cut into, in pixels for a x4 model, at
            least 1; at another scale s, tiles are 4/s times as large, since they cost as much.
        chop_stride: distance of neighbouring tiles in the same unit, 1 to chop_size; None: an
            eighth less than chop_size.
        batch_size: tiles that a program takes at once on each device, at least 1.
        blend: "smooth" leaves no seams; "even" averages the overlaps of tiles that each have noise
            of their own, as the published sampler does, with seams.

    Raises:
        ValueError: a value out of its range, with its name.
    """

    seed: int = 12345
    sampling_steps: int | None = None
    sampler: str | None = None
    chop_size: int = 512
    chop_stride: int | None = None
    batch_size: int = 1
    blend: Blend = "smooth"

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, f"seed={self.seed}: 0 to {2**32 - 1} needed")
        for name in ("sampling_steps", "chop_size", "chop_stride", "batch_size"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name}={value}: at least 1 needed")
        stride = self.chop_stride
        _require(
            stride is None or stride <= self.chop_size,
            f"chop_stride={stride}: at most that of chop_size={self.chop_size} needed, or pixels "
            f"between the tiles are lost",
        )
        for name, known in (("sampler", (None, *SAMPLERS)), ("blend", get_args(Blend))):
            value = getattr(self, name)
            _require(
                value in known, f"{name}={value}: unknown, one of {', '.join(filter(None, known))}"
            )

    def grid(self, config: ModelConfig, image: tuple[int, int]) -> Grid:
        """The tiles of an image of (H, W). Sides are rounded to what the model can take: tiles up
        to whole windows, strides down to whole latent pixels."""
        multiple, align, scale = config.pad_multiple, config.align, config.scale
        size = -(-self.chop_size * 4 // (scale * multiple)) * multiple
        stride = (self.chop_stride or default_stride(size * scale // 4)) * 4 // scale
        return make_grid(
            image, size=size, stride=max(1, stride // align) * align, multiple=multiple, align=align
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
