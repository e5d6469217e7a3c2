"""The released models: task, version or file name in, the model's configuration out.

The facts here are those that the shapes in a file cannot tell: the chain, the scale and the name of
the first stage.
"""

from dataclasses import dataclass, replace

from resshift_jax.config import ChainConfig, ModelConfig, UNetConfig, VQConfig

VQ_F4 = VQConfig()
VQ_F4_FACE = VQConfig(name="celeba256_vq_f4_dim3_face")
VQ_F8_FACE = VQConfig(
    base_channels=64,
    channel_mult=(1, 2, 4, 8),
    num_res_blocks=(1, 2, 3, 4),
    latent_channels=8,
    codebook_size=4096,
    name="ffhq512_vq_f8_dim8_face",
)

FIFTEEN_STEPS = ChainConfig(steps=15, min_noise_level=0.04)
FOUR_STEPS = ChainConfig(steps=4, min_noise_level=0.2)
ONE_STEP = replace(FIFTEEN_STEPS, one_step=True)

_X2 = UNetConfig(condition_size=128)
_INPAINTING = UNetConfig(condition_size=256, condition_mask=True)
_FACE = UNetConfig(condition_size=512, latent_channels=8)


@dataclass(frozen=True)
class Released:
    """A released model.

    Attributes:
        file: stem of the .pth.
        version: what --version calls it; empty where a task has only one.
    """

    file: str
    config: ModelConfig
    version: str = ""


def _sr(task: str, chain: ChainConfig) -> ModelConfig:
    return ModelConfig(task=task, chain=chain)


def _scale_1(task: str, unet: UNetConfig, stage: VQConfig) -> ModelConfig:
    return ModelConfig(task=task, scale=1, chain=FOUR_STEPS, unet=unet, first_stage=stage)


RELEASED = (
    Released("resshift_realsrx4_s15_v1", _sr("realsrx4", FIFTEEN_STEPS), "v1"),
    Released("resshift_realsrx4_s15_v2", _sr("realsrx4", FIFTEEN_STEPS), "v2"),
    Released("resshift_realsrx4_s4_v3", _sr("realsrx4", FOUR_STEPS), "v3"),
    Released("resshift_bicsrx4_s4", _sr("bicsrx4", FOUR_STEPS)),
    Released("resshift_bicsrx4_matlab_s15", _sr("bicsrx4_matlab", FIFTEEN_STEPS)),
    Released("resshift_bicsrx4_opencv_s15", _sr("bicsrx4_opencv", FIFTEEN_STEPS)),
    Released("resshift_inpainting_imagenet_s4", _scale_1("inpaint_imagenet", _INPAINTING, VQ_F4)),
    Released("resshift_inpainting_face_s4", _scale_1("inpaint_face", _INPAINTING, VQ_F4_FACE)),
    Released("resshift_faceir_s4", _scale_1("faceir", _FACE, VQ_F8_FACE)),
    Released("SinSR_v1", _sr("sinsr", ONE_STEP)),
    # Not released, but trained by users with the published recipe.
    Released("resshift_realsrx2_s4", ModelConfig("realsrx2", scale=2, chain=FOUR_STEPS, unet=_X2)),
)

_BY_FILE = {model.file: model for model in RELEASED}
_BY_FILE["resshift_realsrx4_s15"] = _BY_FILE["resshift_realsrx4_s15_v2"]  # its earlier name

TASKS = tuple(dict.fromkeys(model.config.task for model in RELEASED))


class UnknownModelError(ValueError):
    """A task, version or file name that does not settle which model is meant."""


def released_config(
    file_stem: str = "", task: str | None = None, version: str | None = None
) -> ModelConfig:
    """The configuration of a released model by its task and version, or by its file's name.

    Raises:
        UnknownModelError: the names settle nothing, or contradict each other.
    """
    named = _BY_FILE.get(file_stem)
    if named is None and task is None:
        raise UnknownModelError(
            f"not the name of a released file, so say what it is with --task, one of "
            f"{', '.join(TASKS)}"
        )
    if named is not None and task is None:
        task = named.config.task
    candidates = [m for m in RELEASED if m.config.task == task]
    if not candidates:
        raise UnknownModelError(f"--task {task}: unknown, one of {', '.join(TASKS)}")
    if version is not None:
        versions = [m.version for m in candidates if m.version]
        if version not in versions:
            known = f"one of {', '.join(versions)}" if versions else "which has only one"
            raise UnknownModelError(f"--version {version}: unknown for {task}, {known}")
        candidates = [m for m in candidates if m.version == version]
    if named is not None:
        if named.config not in [m.config for m in candidates]:
            release = " ".join([named.config.task, named.version]).strip()
            raise UnknownModelError(f"its name is that of {release}, --task or --version differ")
        return named.config
    if len({m.config for m in candidates}) > 1:
        options = ", ".join(f"{m.version} ({m.config.chain.steps} steps)" for m in candidates)
        raise UnknownModelError(
            f"its name does not tell how many steps it has; say --version, one of {options}"
        )
    return candidates[0].config


def any_release(file_stem: str, task: str | None) -> Released:
    """A released model of the task, or of the file's name, or the first of all."""
    of_task = (m for m in RELEASED if m.config.task == task)
    return next(of_task, _BY_FILE.get(file_stem, RELEASED[0]))
