"""What is installed: every module, the configurations, and the model that ships with it."""

import tomllib
from importlib import import_module
from pathlib import Path

import resshift_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """Where the files of a package lie in this tree."""
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def installed(package: str) -> set[Path]:
    """The files that the package's patterns name."""
    patterns = SETUPTOOLS["package-data"].get(package, [])
    found = {path for pattern in patterns for path in folder_of(package).glob(pattern)}
    return {path for path in found if path.is_file()}


def test_the_packages_are_the_folders_with_modules():
    folders = {path.parent for path in (ROOT / "resshift_jax").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(SETUPTOOLS["packages"]) == sorted({*packages, "resshift_jax.configs"})
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_files_that_are_no_modules_are_installed_too():
    others = {
        path
        for path in (ROOT / "resshift_jax").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    others |= set((ROOT / "configs").iterdir())
    assert {"small_x4.safetensors", "py.typed", "realsr_x4.yaml"} <= {path.name for path in others}
    assert set().union(*map(installed, SETUPTOOLS["packages"])) == others


def test_every_pattern_matches_a_file():
    for package, patterns in SETUPTOOLS["package-data"].items():
        assert package in SETUPTOOLS["packages"]
        assert all(any(folder_of(package).glob(pattern)) for pattern in patterns)


def test_the_command_is_there():
    (target,) = PROJECT["project"]["scripts"].values()
    module, _, function = target.partition(":")
    assert callable(getattr(import_module(module), function))


def test_public_names_are_there():
    for name in resshift_jax.__all__:
        assert getattr(resshift_jax, name) is not None
    assert resshift_jax.__version__ == PROJECT["project"]["version"]
