"""The training loop of examples/, from the public parts alone, and short."""

import importlib.util
from pathlib import Path

import pytest
from runs import SMALLEST, save_photos

LOOP = Path(__file__).parents[1] / "examples" / "train_loop.py"


@pytest.fixture
def main():
    spec = importlib.util.spec_from_file_location("train_loop", LOOP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_it_trains_and_restores(main, tmp_path, capsys):
    photos, path = save_photos(tmp_path / "photos"), tmp_path / "model.safetensors"
    main(str(photos), str(path), *SMALLEST, "train_steps=30", "optimizer.warmup=5")
    said = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in said[:30]]
    assert sum(losses[-8:]) < sum(losses[:8])
    assert said[-1] == f"{path}: restores (8, 8, 3) to (32, 32, 3)"


def test_it_is_short_and_public():
    text = LOOP.read_text()
    code = [line for line in text.split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 40
    assert "from resshift_jax" not in text
