"""Tables that resumed runs go on, and what a run shows."""

import math

import numpy as np

from resshift_jax.training.config import LoggingConfig
from resshift_jax.training.records import Table, read_table
from resshift_jax.training.report import TrainingReport
from resshift_jax.training.step import StepMetrics


def test_a_table_goes_on_where_its_run_does(tmp_path):
    path = tmp_path / "losses.csv"
    values = {step: 1 / step for step in range(1, 6)}
    table = Table(path, 0)
    for step, value in values.items():
        table.add({"step": step, "loss": value, "skipped": 0})
    table.close()
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write("6,0.1")  # as the process was killed
    assert [row["loss"] for row in read_table(path)] == list(values.values())

    table = Table(path, 3)
    assert [row["step"] for row in read_table(path)] == [1, 2, 3]
    for step in (4, 5):
        table.add({"step": step, "loss": values[step], "skipped": 0})
    table.close()
    assert path.read_bytes() == whole


def test_columns_may_come_and_go(tmp_path):
    table = Table(tmp_path / "validation.csv", 0)
    table.add({"step": 1, "psnr": 20.0})
    table.add({"step": 2, "psnr": 21.0, "lpips": 0.5})
    table.add({"step": 3, "lpips": 0.25})
    table.close()
    rows = list(read_table(tmp_path / "validation.csv"))
    assert [row["psnr"] for row in rows][:2] == [20, 21]
    assert [row["lpips"] for row in rows][1:] == [0.5, 0.25]
    assert math.isnan(rows[0]["lpips"])
    assert math.isnan(rows[2]["psnr"])


def metrics_of(loss: float) -> StepMetrics:
    one = np.float32(1)
    return StepMetrics(
        loss=np.float32(loss), terms={"mse": np.float32(loss)}, grad_norm=one, learning_rate=one,
        group_loss=np.array([loss, 0, 0, 3], np.float32), group_count=np.array([3, 0, 0, 1]),
        skipped=np.int32(0), skipped_in_a_row=np.int32(0),
    )  # fmt: skip


def test_what_is_shown_and_drawn(tmp_path, capsys):
    report = TrainingReport(
        LoggingConfig(every=2), tmp_path, start=4, train_steps=7, batch_size=3, flops=1e9, peak=1e15
    )
    with report:
        for step in (5, 6, 7):
            report.step(step, metrics_of(0.5), waited=0)
        report.metrics(7, {"psnr_y": 21.5})
        report.pictures(7, np.zeros((8, 8, 3), np.uint8))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["step", "6/7"], ["step", "7/7"]]
    assert "loss 0.5" in lines[0]
    assert "0% waiting for data" in lines[0]
    assert "psnr_y 21.5" in lines[2]
    (events,) = tmp_path.glob("events.*")
    content = events.read_bytes()
    for tag in (
        "loss/total", "loss/mse", "loss_by_step/1_of_4", "loss_by_step/4_of_4", "speed/mfu",
        "speed/images_per_second", "speed/waiting_for_data", "optimizer/learning_rate",
        "optimizer/gradient_norm", "validation/psnr_y", "validation/pictures",
    ):  # fmt: skip
        assert tag.encode() in content, tag
    assert b"loss_by_step/2_of_4" not in content  # of which there was no sample


def test_other_processes_are_silent(tmp_path, capsys):
    report = TrainingReport(
        LoggingConfig(every=1), tmp_path, start=0, train_steps=1, batch_size=1, flops=1, peak=1,
        silent=True,
    )  # fmt: skip
    with report:
        report.step(1, metrics_of(0.5), waited=0)
        report.metrics(1, {"psnr_y": 21.5})
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())
