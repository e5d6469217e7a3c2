"""The files of configs/ against the published recipes, and YAML there and back."""

from dataclasses import replace
from pathlib import Path

import pytest

from resshift_jax.settings import to_dict
from resshift_jax.training.config import what_changed
from resshift_jax.training.config_file import read_config, write_config
from resshift_jax.weights.zoo import released_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_is_read_and_written(path, tmp_path):
    config = read_config(path)
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config
    header = path.read_text().split("\nbase:")[0].split("\nmodel:")[0]
    assert f"resshift train {path.stem} " in header


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("realsr_x4", "resshift_realsrx4_s15_v2"),
        ("realsr_x4_v3", "resshift_realsrx4_s4_v3"),
        ("bicsr_x4_matlab", "resshift_bicsrx4_s4"),
        ("realsr_x2", "resshift_realsrx2_s4"),
        ("inpaint_imagenet", "resshift_inpainting_imagenet_s4"),
        ("inpaint_face", "resshift_inpainting_face_s4"),
        ("faceir", "resshift_faceir_s4"),
    ],
)
def test_what_is_trained_is_what_is_released(name, file):
    """So that the exported weights of a recipe fit wherever the released ones do."""
    assert read_config(CONFIGS / f"{name}.yaml").model == released_config(file)


def test_a_model_for_reductions_of_opencv_has_a_name_of_its_own():
    model = read_config(CONFIGS / "bicsr_x4_opencv.yaml").model
    assert model == replace(released_config("resshift_bicsrx4_s4"), task="bicsrx4_opencv")


@pytest.mark.parametrize(
    ("name", "batch_size", "steps", "lpips", "decay", "kind"),
    [
        ("realsr_x4", 64, 300_000, 0, "constant", "real_esrgan"),
        ("realsr_x4_v3", 96, 400_000, 1, "cosine", "real_esrgan"),
        ("bicsr_x4_matlab", 96, 400_000, 1, "cosine", "bicubic"),
        ("realsr_x2", 96, 400_000, 1, "cosine", "real_esrgan"),
        ("inpaint_imagenet", 96, 400_000, 10, "cosine", "masks"),
        ("inpaint_face", 96, 400_000, 10, "cosine", "masks"),
        ("faceir", 56, 400_000, 10, "cosine", "faces"),
    ],
)
def test_the_published_recipes(name, batch_size, steps, lpips, decay, kind):
    config = read_config(CONFIGS / f"{name}.yaml")
    assert (config.batch_size, config.train_steps, config.ema) == (batch_size, steps, 0.999)
    assert config.loss.weights == {"mse": 1, **({"lpips_vgg": lpips} if lpips else {})}
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.warmup, optimizer.decay) == (5e-5, 5000, decay)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0, None)
    assert config.degradation.kind == kind


def test_bases_and_settings_change_single_values(tmp_path):
    (tmp_path / "base.yaml").write_text("train_steps: 7\noptimizer: {warmup: 3, b1: 0.5}")
    (tmp_path / "more.yaml").write_text("base: base.yaml\noptimizer: {warmup: 4}")
    config = read_config(tmp_path / "more.yaml", ["degradation.second_round.noise.grey_prob=0.25"])
    assert (config.train_steps, config.optimizer.warmup, config.optimizer.b1) == (7, 4, 0.5)
    # Its neighbours stay as they are in the second round, which is not as the first.
    second = config.degradation.second_round
    assert second.noise.grey_prob == 0.25
    assert second.noise.gaussian_sigma == (1.0, 25.0)
    assert second.blur.sizes == (3, 13)


def test_another_kind_replaces_a_group(tmp_path):
    base = CONFIGS / "realsr_x4.yaml"
    (tmp_path / "own.yaml").write_text(f"base: {base}\ndegradation: {{kind: pairs}}")
    settings = ["data.sources=[{path: a, lq: b}, {path: c, lq: d, weight: 2}]"]
    config = read_config(tmp_path / "own.yaml", settings)
    assert config.degradation.kind == "pairs"
    assert [source.weight for source in config.data.sources] == [None, 2.0]


def test_what_a_machine_and_a_log_may_change():
    before = to_dict(read_config(CONFIGS / "tiny.yaml"))

    def changed(*settings: str) -> list[str]:
        found = what_changed(read_config(CONFIGS / "tiny.yaml", settings), before)
        return [key for key, _, _ in found]

    assert not changed("logging.every=7", "data.threads=3", "data.workers=2", "mesh.fsdp=2",
              "checkpoint.keep=9", "validation.every=5", "loss.weights.l1=0")  # fmt: skip
    for setting in (
        "seed=1", "ema=0.5", "data.crop.flips=none", "optimizer.b1=0.8", "train_steps=9",
        "batch_size=12", "micro_batches=2", "loss.weights.mse=3",
    ):  # fmt: skip
        assert changed(setting) == [setting.split("=")[0]]


def test_the_kind_of_a_source_may_change():
    sources = "data.sources=[{path: a%s}]"
    before = to_dict(read_config(CONFIGS / "tiny.yaml", [sources % ""]))
    del before["data"]["sources"][0]["kind"]  # as checkpoints of before have it
    assert not what_changed(read_config(CONFIGS / "tiny.yaml", [sources % ", kind: x"]), before)
    assert what_changed(read_config(CONFIGS / "tiny.yaml", [sources % ", weight: 2"]), before)


def test_a_mixture_of_ones_own():
    parts = "[{second_round_prob: 0}, {jpeg: [80, 100]}, {}]"
    config = read_config(
        CONFIGS / "small_x4.yaml", [f"degradation.parts={parts}", "degradation.weights=[3, 1, 1]"]
    )
    first, second, third = config.degradation.parts
    assert (first.second_round_prob, second.jpeg) == (0, (80.0, 100.0))
    assert third == read_config(CONFIGS / "realsr_x4.yaml").degradation
    assert config.degradation.weights == (3.0, 1.0, 1.0)
