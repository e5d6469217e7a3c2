"""The released models: task, version or file name in, the model's configuration and address out.

The facts here are those that the shapes in a file cannot tell: the chain, the scale, the name of
the first stage, and where the files are published.
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

FIFTEEN_STEPS = ChainConfig(num_timesteps=15, min_noise_level=0.04)
FOUR_STEPS = ChainConfig(num_timesteps=4, min_noise_level=0.2)
ONE_STEP = replace(FIFTEEN_STEPS, sampler="one_step")

_X2 = UNetConfig(cond_size=128)
_INPAINTING = UNetConfig(cond_size=256, cond_mask=True)
_FACE = UNetConfig(cond_size=512, latent_channels=8)


_RESSHIFT_V1 = "https://github.com/zsyOAOA/ResShift/releases/download/v1.0"
_RESSHIFT_V2 = "https://github.com/zsyOAOA/ResShift/releases/download/v2.0"
_SINSR = "https://github.com/wyf0912/SinSR/releases/download/v1.0"


@dataclass(frozen=True)
class Released:
    """A released model.

    Attributes:
        file: stem of the .pth.
        version: by which it is chosen; empty where a task has only one.
        folder: the address that the .pth is published under; empty where it is not.
        earlier: stems that the same file had before.
    """

    file: str
    config: ModelConfig
    version: str = ""
    folder: str = _RESSHIFT_V2
    earlier: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Of the .pth; empty where it is not published."""
        return f"{self.folder}/{self.file}.pth" if self.folder else ""


def _sr(task: str, chain: ChainConfig) -> ModelConfig:
    return ModelConfig(task=task, chain=chain)


def _scale_1(task: str, unet: UNetConfig, stage: VQConfig) -> ModelConfig:
    return ModelConfig(task=task, scale=1, chain=FOUR_STEPS, unet=unet, first_stage=stage)


# Of one task, the oldest first.
RELEASED = (
    Released("resshift_realsrx4_s15_v1", _sr("realsrx4", FIFTEEN_STEPS), "v1"),
    Released(
        "resshift_realsrx4_s15_v2", _sr("realsrx4", FIFTEEN_STEPS), "v2",
        earlier=("resshift_realsrx4_s15",),
    ),
    Released("resshift_realsrx4_s4_v3", _sr("realsrx4", FOUR_STEPS), "v3"),
    Released("resshift_bicsrx4_s4", _sr("bicsrx4", FOUR_STEPS)),
    Released(
        "resshift_bicsrx4_matlab_s15", _sr("bicsrx4_matlab", FIFTEEN_STEPS), folder=_RESSHIFT_V1
    ),
    Released(
        "resshift_bicsrx4_opencv_s15", _sr("bicsrx4_opencv", FIFTEEN_STEPS), folder=_RESSHIFT_V1
    ),
    Released("resshift_inpainting_imagenet_s4", _scale_1("inpaint_imagenet", _INPAINTING, VQ_F4)),
    Released("resshift_inpainting_face_s4", _scale_1("inpaint_face", _INPAINTING, VQ_F4_FACE)),
    Released("resshift_faceir_s4", _scale_1("faceir", _FACE, VQ_F8_FACE)),
    Released("SinSR_v1", _sr("sinsr", ONE_STEP), folder=_SINSR),
    # Not released, but trained by users with the published recipe.
    Released(
        "resshift_realsrx2_s4", ModelConfig("realsrx2", scale=2, chain=FOUR_STEPS, unet=_X2),
        folder="",
    ),
)  # fmt: skip

FIRST_STAGE_URLS = {
    stage.name: f"{_RESSHIFT_V2}/{stage.name}.pth" for stage in (VQ_F4, VQ_F4_FACE, VQ_F8_FACE)
}

_BY_FILE = {name: model for model in RELEASED for name in (model.file, *model.earlier)}

TASKS = tuple(dict.fromkeys(model.config.task for model in RELEASED))
BUNDLED = "small"  # the task of the model that ships with the package, see bundled.py
ALIASES = {"realsr": "realsrx4", "bicsr": "bicsrx4"}  # as the original's --task calls them


class UnknownModelError(ValueError):
    """A task, version or file name that does not settle which model is meant."""


def canonical_task(task: str) -> str:
    """The name in TASKS of a task that may go by one of the ALIASES; others come back as given."""
    return ALIASES.get(task, task)


def find_releases(task: str, version: str | None = None) -> list[Released]:
    """The releases of a task, the oldest first; with a version, that one alone.

    Raises:
        UnknownModelError: no such task, or no such version of it.
    """
    task = canonical_task(task)
    releases = [model for model in RELEASED if model.config.task == task]
    if task == BUNDLED:
        remedy = "" if version is None else f"; leave out version={version}"
        raise UnknownModelError(
            f"task={task}: the model that ships with the package is none of the published ones"
            f"{remedy}"
        )
    if not releases:
        known = ", ".join([BUNDLED, *TASKS, *ALIASES])
        raise UnknownModelError(f"task={task}: unknown, one of {known}")
    if version is None:
        return releases
    versions = [model.version for model in releases if model.version]
    if version not in versions:
        known = f"one of {', '.join(versions)}" if versions else "which has only one"
        raise UnknownModelError(f"version={version}: unknown for {task}, {known}")
    return [model for model in releases if model.version == version]


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
            f"not the name of a released file, so say what it is with task=NAME, one of "
            f"{', '.join(TASKS)}"
        )
    if named is not None and task is None:
        task = named.config.task
    assert task is not None
    candidates = find_releases(task, version)
    if named is not None:
        if named.config not in [m.config for m in candidates]:
            release = " ".join([named.config.task, named.version]).strip()
            raise UnknownModelError(
                f"its name is that of {release}, which the task or version given contradicts"
            )
        return named.config
    if len({m.config for m in candidates}) > 1:
        options = ", ".join(
            f"{m.version} ({m.config.chain.num_timesteps} steps)" for m in candidates
        )
        raise UnknownModelError(
            f"its name does not tell how many steps it has; say version=NAME, one of {options}"
        )
    return candidates[0].config


def release_of_file(file_stem: str) -> Released | None:
    """The released model of a file's name without suffix, also of an earlier name; None: none."""
    return _BY_FILE.get(file_stem)


def any_release(file_stem: str, task: str | None) -> Released:
    """A released model of the task, or of the file's name, or the first of all."""
    name = None if task is None else canonical_task(task)
    of_task = (model for model in RELEASED if model.config.task == name)
    return next(of_task, _BY_FILE.get(file_stem, RELEASED[0]))
