"""Times the degradation: python -m benchmarks.degradation [--setting test] [--json FILE].

The whole, and each step alone with the same draws on images of the sizes that it has (but that the
second resizing goes straight to the low-quality size): what it takes an image, in milliseconds and
as a share of the steps' sum, and images a second. In turn with each a 2048^3 matrix product is
timed, the yardstick by which machines compare.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.timing import (
    MATMUL_SIDE,
    describe_machine,
    interleaved,
    matmul_program,
    peak_gib,
    timed,
    write_json,
)
from resshift_jax.degradation.config import TEST_SET, RealEsrganConfig
from resshift_jax.degradation.ops.blur import blur
from resshift_jax.degradation.ops.canvas import Canvas, for_each_image, from_image, on_canvas
from resshift_jax.degradation.ops.jpeg import compress
from resshift_jax.degradation.ops.noise import add_noise
from resshift_jax.degradation.ops.resize import resize_by, resize_to
from resshift_jax.degradation.real_esrgan import SMALLER_CANVASES, Draws, degrade, draw
from resshift_jax.platform import compiler_options

SETTINGS = {"training": RealEsrganConfig(), "test": TEST_SET}

Step = Callable[[Draws, Canvas], Canvas]


@dataclass
class Row:
    """A line of the table. share: of the steps' sum; matmuls: of the yardstick, for an image."""

    part: str
    milliseconds: float
    share: float | None
    images_per_second: float
    matmuls: float
    compile_seconds: float


def if_drawn(condition: Callable[[Draws], Array], step: Step) -> Step:
    return lambda d, x: jax.lax.cond(condition(d), partial(step, d), lambda same: same, x)


def of_image(step: Step) -> Callable[..., Array]:
    """A step on the whole image."""
    return lambda d, image, smaller: step(d, from_image(image)).planes.sum()


def of_resized(step: Step, config: RealEsrganConfig) -> Callable[..., Array]:
    """A step on an image of the size that the first resizing gives it."""

    def one(d: Draws, image: Array, smaller: Sequence[float]) -> Array:
        height, width, _ = image.shape
        factor, greatest = d.first_round.resize.factor, config.first_round.resize.greatest
        sides = [jnp.floor(side * factor).astype(jnp.int32) for side in (height, width)]

        def on_shape(shape: tuple[int, int], x: Canvas) -> Array:
            growth = (max(0, shape[0] - height), max(0, shape[1] - width))
            planes = jnp.pad(x.planes, ((0, 0), (0, growth[0]), (0, growth[1])), "wrap")
            return step(d, Canvas(planes[:, : shape[0], : shape[1]], *sides)).planes.sum()

        return on_canvas(on_shape, from_image(image), factor, greatest, smaller)

    return one


def of_lq(step: Step, lq_size: tuple[int, int]) -> Callable[..., Array]:
    """A step on an image of the low-quality size."""
    return lambda d, image, smaller: of_image(step)(d, image[: lq_size[0], : lq_size[1]], smaller)


def make_steps(config: RealEsrganConfig, side: int) -> dict[str, Callable[..., Array]]:
    """Name -> function(draws, image, smaller), in the order of the degradation."""
    lq_size = side // config.scale, side // config.scale

    def last_jpeg(d: Draws, x: Canvas) -> Canvas:
        return compress(x, d.jpeg)

    def resize_first(d: Draws, image: Array, smaller: Sequence[float]) -> Array:
        def on_shape(shape: tuple[int, int], x: Canvas) -> Array:
            return resize_by(x, *d.first_round.resize, shape).planes.sum()

        factor, greatest = d.first_round.resize.factor, config.first_round.resize.greatest
        return on_canvas(on_shape, from_image(image), factor, greatest, smaller)

    steps = {
        "first blur": of_image(
            lambda d, x: blur(x, d.first_round.blur, config.first_round.blur.sizes[1])
        ),
        "first resizing": resize_first,
        "first noise": of_resized(lambda d, x: add_noise(x, d.first_round.noise), config),
        "first JPEG": of_resized(lambda d, x: compress(x, d.first_jpeg), config),
        "second blur": of_resized(
            if_drawn(
                lambda d: d.twice,
                lambda d, x: blur(x, d.second_round.blur, config.second_round.blur.sizes[1]),
            ),
            config,
        ),
        "last JPEG, before resizing": of_resized(
            if_drawn(lambda d: d.jpeg_first & ~d.twice, lambda d, x: compress(x, d.jpeg)),
            config,
        ),
        "second resizing": of_resized(lambda d, x: resize_to(x, lq_size, d.mode, lq_size), config),
        "second noise": of_lq(
            if_drawn(lambda d: d.twice, lambda d, x: add_noise(x, d.second_round.noise)), lq_size
        ),
        "last resizing": of_lq(
            if_drawn(lambda d: d.twice, lambda d, x: resize_to(x, lq_size, d.mode, lq_size)),
            lq_size,
        ),
        "sinc": of_lq(lambda d, x: blur(x, d.sinc, config.sinc.sizes[1]), lq_size),
        "last JPEG, after resizing": of_lq(
            if_drawn(
                lambda d: ~(d.jpeg_first & ~d.twice),
                lambda d, x: compress(x, d.jpeg),
            ),
            lq_size,
        ),
    }
    if config.second_round_prob == 0:
        del steps["second blur"], steps["second noise"], steps["last resizing"]
    return steps


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="training")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    config, side = SETTINGS[args.setting], args.size

    keys = jax.random.split(jax.random.key(0), args.batch)
    photos = np.random.default_rng(0).random((args.batch, side // 8, side // 8, 3), np.float32)
    images = jnp.asarray(photos.repeat(8, 1).repeat(8, 2))  # JPEG and Poisson noise have work to do
    draw_all = jax.jit(jax.vmap(partial(draw, config=config)))
    draws = draw_all(keys)

    functions: dict[str, tuple[Callable, tuple]] = {
        "whole": (partial(degrade, config=config), (keys, images)),
        "draws": (draw_all, (keys,)),
    }
    for name, step in make_steps(config, side).items():
        functions[name] = partial(for_each_image, step, smaller=SMALLER_CANVASES), (draws, images)

    parts, compile_seconds = {}, {}
    for name, (function, inputs) in functions.items():
        jitted = jax.jit(function, compiler_options=compiler_options())
        compile_seconds[name], compiled = timed(lambda f=jitted, a=inputs: f.lower(*a).compile())
        timed(compiled, *inputs)
        parts[name] = compiled, inputs
    matmul = matmul_program(np.float32)
    timed(matmul)
    best, best_matmul = interleaved(parts, matmul, args.rounds)

    total = sum(seconds for name, seconds in best.items() if name != "whole")
    rows = [
        Row(
            part=name,
            milliseconds=1e3 * seconds / args.batch,
            share=None if name == "whole" else seconds / total,
            images_per_second=args.batch / seconds,
            matmuls=seconds / args.batch / best_matmul,
            compile_seconds=compile_seconds[name],
        )
        for name, seconds in best.items()
    ]
    summary = {
        **describe_machine(),
        "setting": args.setting,
        "side": side,
        "batch": args.batch,
        "matmul_gflops": 2 * MATMUL_SIDE**3 / best_matmul / 1e9,
        "peak_gib": peak_gib(jax.devices()[0]),
        "rows": [asdict(row) for row in rows],
    }
    print_table(summary, rows)
    if args.json:
        write_json(args.json, summary)


def print_table(summary: dict[str, Any], rows: list[Row]) -> None:
    for key, value in summary.items():
        if key != "rows":
            print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")
    print(f"\n{'part':28} {'ms':>7} {'share':>6} {'images/s':>9} {'matmuls':>8} {'compile s':>10}")
    for row in rows:
        share = "" if row.share is None else f"{row.share:.2f}"
        print(
            f"{row.part:28} {row.milliseconds:7.2f} {share:>6} {row.images_per_second:9.0f} "
            f"{row.matmuls:8.3f} {row.compile_seconds:10.1f}"
        )


if __name__ == "__main__":
    main()
