"""The table of released models: what each file is, and how a task, version or name settles it."""

import pytest

from resshift_jax.weights.zoo import (
    ALIASES,
    FIRST_STAGE_URLS,
    RELEASED,
    TASKS,
    UnknownModelError,
    any_release,
    canonical_task,
    find_releases,
    released_config,
)


# From the tables of the publication: T, m, scale, lq_size, latent channels, mask, autoencoder.
@pytest.mark.parametrize(
    ("file", "steps", "noise", "scale", "lq_size", "channels", "mask", "stage"),
    [
        ("resshift_realsrx4_s15_v1", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_realsrx4_s15_v2", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_realsrx4_s15", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_realsrx4_s4_v3", 4, 0.2, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_bicsrx4_matlab_s15", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_bicsrx4_opencv_s15", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_bicsrx4_s4", 4, 0.2, 4, 64, 3, False, "autoencoder_vq_f4"),
        ("resshift_inpainting_imagenet_s4", 4, 0.2, 1, 256, 3, True, "autoencoder_vq_f4"),
        ("resshift_inpainting_face_s4", 4, 0.2, 1, 256, 3, True, "celeba256_vq_f4_dim3_face"),
        ("resshift_faceir_s4", 4, 0.2, 1, 512, 8, False, "ffhq512_vq_f8_dim8_face"),
        ("resshift_realsrx2_s4", 4, 0.2, 2, 128, 3, False, "autoencoder_vq_f4"),
        ("SinSR_v1", 15, 0.04, 4, 64, 3, False, "autoencoder_vq_f4"),
    ],
)
def test_facts_of_each_file(file, steps, noise, scale, lq_size, channels, mask, stage):
    config = released_config(file)
    assert (config.chain.num_timesteps, config.chain.min_noise_level) == (steps, noise)
    assert (config.chain.kappa, config.chain.power, config.chain.target) == (2.0, 0.3, "x0")
    assert (config.chain.sampler == "one_step") == (file == "SinSR_v1")
    assert (config.scale, config.unet.cond_size) == (scale, lq_size)
    assert (config.unet.latent_channels, config.unet.cond_mask) == (channels, mask)
    assert config.first_stage.name == stage
    assert config.unet.image_size == 64
    assert config.unet.window_mask == "released"


def test_files_are_named_once_and_tasks_name_them():
    files = [model.file for model in RELEASED]
    assert len(set(files)) == len(files)
    for model in RELEASED:
        assert released_config("my_file", model.config.task, model.version or None) == model.config
    assert len(TASKS) == 9


@pytest.mark.parametrize(("version", "steps"), [("v1", 15), ("v2", 15), ("v3", 4)])
def test_a_version_settles_the_steps(version, steps):
    assert released_config("my_file", "realsrx4", version).chain.num_timesteps == steps


@pytest.mark.parametrize(
    ("stem", "task", "version", "message"),
    [
        ("my_file", None, None, "not the name of a released file.*task=NAME.*realsrx4"),
        ("my_file", None, "v3", "not the name of a released file.*task=NAME.*realsrx4"),
        (
            "my_file",
            "realsrx4",
            None,
            r"does not tell.*version=NAME.*v1 \(15 steps\).*v3 \(4 steps\)",
        ),
        ("my_file", "realsrx4", "v4", "version=v4: unknown for realsrx4.*v1, v2, v3"),
        ("my_file", "faceir", "v1", "version=v1: unknown for faceir"),
        ("my_file", "deblur", None, "task=deblur: unknown, one of small, realsrx4"),
    ],
)
def test_names_that_settle_nothing(stem, task, version, message):
    with pytest.raises(UnknownModelError, match=message):
        released_config(stem, task, version)


def test_a_released_name_needs_no_version():
    assert released_config("resshift_realsrx4_s4_v3", "realsrx4").chain.num_timesteps == 4
    assert released_config("resshift_realsrx4_s15_v1", "realsrx4").chain.num_timesteps == 15


@pytest.mark.parametrize(
    ("stem", "task", "version"),
    [
        ("resshift_realsrx4_s15_v2", "realsrx4", "v3"),
        ("resshift_realsrx4_s15_v2", None, "v3"),
        ("resshift_faceir_s4", "realsrx4", "v3"),
        ("resshift_faceir_s4", "realsrx4", None),
        ("resshift_faceir_s4", None, "v3"),
    ],
)
def test_names_that_contradict_each_other(stem, task, version):
    with pytest.raises(UnknownModelError, match=r"its name is that of|version=v3: unknown"):
        released_config(stem, task, version)


RESSHIFT = "https://github.com/zsyOAOA/ResShift/releases/download"


def test_where_each_file_is_published():
    urls = {model.file: model.url for model in RELEASED}
    assert urls.pop("SinSR_v1") == (
        "https://github.com/wyf0912/SinSR/releases/download/v1.0/SinSR_v1.pth"
    )
    assert urls.pop("resshift_realsrx2_s4") == ""
    for task in ("matlab", "opencv"):
        file = f"resshift_bicsrx4_{task}_s15"
        assert urls.pop(file) == f"{RESSHIFT}/v1.0/{file}.pth"
    assert urls == {file: f"{RESSHIFT}/v2.0/{file}.pth" for file in urls}
    stages = ["autoencoder_vq_f4", "celeba256_vq_f4_dim3_face", "ffhq512_vq_f8_dim8_face"]
    assert {name: f"{RESSHIFT}/v2.0/{name}.pth" for name in stages} == FIRST_STAGE_URLS
    assert {model.config.first_stage.name for model in RELEASED} == set(stages)


def test_the_releases_of_a_task_come_oldest_first():
    assert [model.version for model in find_releases("realsrx4")] == ["v1", "v2", "v3"]
    (second,) = find_releases("realsrx4", "v2")
    assert (second.file, second.earlier) == ("resshift_realsrx4_s15_v2", ("resshift_realsrx4_s15",))


def test_the_original_names_of_tasks():
    assert ALIASES == {"realsr": "realsrx4", "bicsr": "bicsrx4"}
    assert not set(ALIASES) & set(TASKS)
    assert [canonical_task(task) for task in TASKS] == list(TASKS)
    for alias, task in ALIASES.items():
        assert canonical_task(alias) == task
        assert find_releases(alias) == find_releases(task)
    assert released_config("my_file", "realsr", "v3") == released_config(
        "my_file", "realsrx4", "v3"
    )
    assert released_config("resshift_realsrx4_s15_v1", "realsr").chain.num_timesteps == 15
    assert any_release("my_file", "bicsr").config.task == "bicsrx4"
