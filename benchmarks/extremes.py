"""What photographs seldom hold: pure colours, dark pictures and letters.

python -m benchmarks.extremes [ORIGINALS LQ] [--weights FILE] [--json FILE] [--letters FOLDER]

corners   flat images of the eight corners of the cube of colours: the greatest difference of a
          pixel from its colour, in grey levels of 255
dark      LQ times 0.1, restored, against ORIGINALS times 0.1: PSNR-Y beside that of bicubic
letters   text of ten scripts, rendered 48 pixels high and reduced to 12 by area: PSNR to the
          rendering, beside those of bicubic and, where it is installed, of Real-ESRGAN

--letters writes the pictures. Fonts are those of the Debian packages fonts-freefont-ttf,
fonts-nanum, fonts-ipafont-gothic and fonts-wqy-microhei; a script without its font is left out, and
a line says so.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import resshift_jax
from benchmarks.peers import PEER, real_esrgan
from benchmarks.quality import bicubic, read
from benchmarks.timing import write_json
from resshift_jax.evaluation.psnr_ssim import psnr_y

Enlarge = Callable[[np.ndarray], np.ndarray]

FONTS = Path("/usr/share/fonts")
FREE, NANUM = "truetype/freefont/FreeSerif.ttf", "truetype/nanum/NanumGothic.ttf"
SCRIPTS = {
    "Latin": (FREE, "The quick brown fox\njumps over 13 lazy dogs"),
    "Cyrillic": ("truetype/freefont/FreeSans.ttf", "Съешь же ещё этих мягких\nфранцузских булок"),
    "Greek": (FREE, "Ξεσκεπάζω την\nψυχοφθόρα βδελυγμία"),
    "Hebrew": (FREE, "דג סקרן שט בים\nמאוכזב ולפתע מצא"),
    "Arabic": (FREE, "نص حكيم له سر قاطع\nوذو شأن عظيم"),
    "Devanagari": (FREE, "ऋषियों को सताने वाले\nदुष्ट राक्षसों के राजा"),
    "Thai": (FREE, "เป็นมนุษย์สุดประเสริฐ\nเลิศคุณค่า"),
    "Han": ("truetype/wqy/wqy-microhei.ttc", "天地玄黄宇宙洪荒\n日月盈昃辰宿列张"),
    "Kana": (
        "opentype/ipafont-gothic/ipag.ttf",
        "いろはにほへとちりぬるを\nワカヨタレソツネナラム",
    ),
    "Hangul": (NANUM, "키스의 고유조건은 입술끼리\n만나야 하고"),
}
HIGH = 12  # pixels of the low-quality image


def corners(enlarge: Enlarge) -> dict[str, int]:
    """The greatest difference from each corner of the cube of colours."""
    found = {}
    for corner in itertools.product((0, 255), repeat=3):
        flat = np.tile(np.array(corner, np.uint8), (64, 64, 1))
        difference = np.abs(enlarge(flat).astype(int) - np.array(corner)).max()
        found["".join(f"{value:02x}" for value in corner)] = int(difference)
    return found


def dark(enlarge: Enlarge, originals: Path, lq: Path) -> dict[str, float]:
    """PSNR-Y of dark versions, of ours and of bicubic enlargement."""
    truths = read(originals)
    images = read(lq, list(truths))
    figures: dict[str, list[float]] = {"ours": [], "bicubic": []}
    for name, truth in truths.items():
        truth, image = (np.rint(0.1 * x).astype(np.uint8) for x in (truth, images[name]))
        figures["ours"].append(psnr_y(enlarge(image), truth))
        figures["bicubic"].append(psnr_y(bicubic(image, truth), truth))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def rendered(font: Path, text: str) -> np.ndarray:
    """Black letters on white, 4 * HIGH pixels high, (256, 768, 3) uint8."""
    image = Image.new("RGB", (768, 256), "white")
    draw = ImageDraw.Draw(image)
    draw.multiline_text((24, 48), text, "black", ImageFont.truetype(font, 4 * HIGH), spacing=24)
    return np.asarray(image)


def reduced(image: np.ndarray) -> np.ndarray:
    """A quarter of the size, by area."""
    height, width, _ = image.shape
    blocks = image.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
    return np.rint(blocks).astype(np.uint8)


def letters(enlarge: dict[str, Enlarge], folder: Path | None) -> dict[str, dict[str, float]]:
    """PSNR in dB of each script, of each way to enlarge."""
    found: dict[str, dict[str, float]] = {}
    for script, (font, text) in SCRIPTS.items():
        if not (FONTS / font).is_file():
            print(f"{script} is left out: {FONTS / font} is not installed")
            continue
        truth = rendered(FONTS / font, text)
        lq = reduced(truth)
        results = {name: function(lq) for name, function in enlarge.items()}
        results["bicubic"] = bicubic(lq, truth)
        found[script] = {name: psnr(image, truth) for name, image in results.items()}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            rows = np.concatenate([truth, *results.values()])
            Image.fromarray(rows).save(folder / f"{script}.png")
    return found


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Of all channels, in dB."""
    error = np.square(image.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path, nargs="?")
    parser.add_argument("lq", type=Path, nargs="?")
    parser.add_argument("--weights", type=Path, help="by default the model of the package")
    parser.add_argument("--letters", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.originals and not args.lq:
        parser.error("LQ: needed beside ORIGINALS")

    model = resshift_jax.load(args.weights) if args.weights else resshift_jax.load()
    enlarge: dict[str, Enlarge] = {"ours": model}
    if (peer := real_esrgan()) is not None:
        enlarge[PEER] = peer
    found: dict[str, dict] = {"corners": corners(model)}
    if args.originals:
        found["dark"] = dark(model, args.originals, args.lq)
    found["letters"] = letters(enlarge, args.letters)
    for part, figures in found.items():
        print(part)
        for name, value in figures.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            print(f"  {name:12}", "  ".join(f"{key} {number:.2f}" for key, number in values))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
