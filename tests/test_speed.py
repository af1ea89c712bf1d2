"""The meter of a run: pace, MFU and memory, as far as the device lets them be known."""

import types

import jax
import numpy as np
import pytest

from lmjax import speed, train
from lmjax.console import Console
from lmjax.flops import conventions
from lmjax.parallel import compile_program


class Device(types.SimpleNamespace):
    """Stands for a chip that is not here."""

    def __init__(self, kind: str, stats: dict | None = None):
        super().__init__(device_kind=kind, platform="gpu", memory_stats=lambda: stats)


def meter_on(monkeypatch, experiment, *devices: Device) -> speed.Meter:
    """The meter of an experiment whose pace is 4 steps in 2 seconds, without what was excluded."""
    batch = experiment.data.shapes(experiment.batch_size)
    abstract = compile_program(experiment, batch).abstract_state
    monkeypatch.setattr(jax, "devices", lambda: list(devices))
    monkeypatch.setattr(jax, "local_devices", lambda: list(devices))
    meter = speed.make_meter(experiment, abstract, batch)
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(speed.time, "monotonic", lambda: next(clock))
    meter.pace.mark(1)
    meter.pace.exclude(0.5)
    meter.pace.mark(5)
    return meter


def test_mfu_is_work_over_peak(tiny_gpt, monkeypatch):
    chip = "NVIDIA H100 80GB HBM3"
    meter = meter_on(monkeypatch, tiny_gpt, Device(chip, {"peak_bytes_in_use": 3_200_000_000}))
    parameters = (256 + 16) * 16 + 2 * (12 * 16**2 + 13 * 16) + 2 * 16
    rate = 4 / 2 * 8 * 16
    assert meter.rate == pytest.approx(rate)
    expected = {
        name: rate * flop / 989e12 for name, flop in conventions(parameters, 2 * 16, 16).items()
    }
    assert meter.utilization == pytest.approx(expected)
    assert expected["full"] > expected["causal"]
    assert meter.record() == {
        "tokens_per_second": meter.rate,
        "mfu": meter.utilization,
        "peak_memory_bytes": 3_200_000_000,
    }
    assert meter.line(9) == "  256 tokens/s  MFU 0.0% (causal)  3.2 GB  ETA 0:00:02"


def test_two_chips_halve_it_and_the_fullest_memory_counts(tiny_gpt, monkeypatch):
    chip = "TPU v5 lite"
    one = meter_on(monkeypatch, tiny_gpt, Device(chip))
    share = one.utilization["causal"]
    assert "peak_memory_bytes" not in one.record()
    monkeypatch.undo()
    stats = [{"peak_bytes_in_use": number} for number in (5, 7)]
    two = meter_on(monkeypatch, tiny_gpt, *(Device(chip, held) for held in stats))
    assert two.utilization["causal"] == pytest.approx(share / 2)
    assert two.record()["peak_memory_bytes"] == 7


def test_a_net_without_a_convention_is_counted(tiny_mlp, monkeypatch):
    meter = meter_on(monkeypatch, tiny_mlp, Device("NVIDIA A100-SXM4-40GB"))
    rate, flop = 4 / 2 * 32, 3 * 2 * (64 * 16 + 16 * 10)
    assert meter.utilization == pytest.approx({"counted": rate * flop / 312e12})
    assert "(counted)" in meter.line(5)


def test_an_unknown_chip_has_no_mfu_and_says_so_once(tiny_mlp, monkeypatch, capsys):
    from lmjax.manifest import Begun
    from lmjax.summary import introduce

    chip = Device("NVIDIA GeForce RTX 9999")
    meter = meter_on(monkeypatch, tiny_mlp, chip)
    assert meter.line(5) == "  64 examples/s  ETA 0:00:00"
    assert meter.record() == {"examples_per_second": meter.rate}
    monkeypatch.undo()
    dataset, batch = train.prepare(tiny_mlp)
    program = compile_program(tiny_mlp, batch)
    monkeypatch.setattr(jax, "devices", lambda: [chip])
    introduce(tiny_mlp, dataset, program, Begun("R4", [], []), train.epath.Path("run"), Console())
    told = capsys.readouterr().out
    assert told.count("whose peak is not known: no MFU") == 1


def test_on_cpu_nothing_is_said_of_peaks(tiny_mlp, tmp_path, capsys):
    result = train.run(tiny_mlp, str(tmp_path / "run"))
    told = capsys.readouterr().out
    assert "MFU" not in told
    assert " GB" not in told
    assert {"mfu", "peak_memory_bytes"}.isdisjoint(result)
    assert result["devices"]["kind"] == "cpu"
    assert result["versions"]["numpy"] == np.__version__
    assert result["versions"]["jax"] == jax.__version__
    assert result["seconds"] > 0
    assert result["resumed_from"] == 0


def test_the_progress_line_is_made_only_to_be_shown(monkeypatch, capsys):
    made = []
    console = Console()
    for number in range(100):
        console.progress(lambda number=number: made.append(number) or f"line {number}", False)
    console.progress(lambda: "last", True)
    assert made == [0]  # the rest came within ten seconds
    assert capsys.readouterr().out == "line 0\nlast\n"


def test_a_meter_before_its_second_look_knows_no_rate(tiny_mlp):
    batch = tiny_mlp.data.shapes(tiny_mlp.batch_size)
    program = compile_program(tiny_mlp, batch)
    meter = speed.make_meter(tiny_mlp, program.abstract_state, batch)
    meter.pace.mark(1)
    assert meter.rate is None
    assert meter.utilization == {}
    assert meter.line(9) == ""  # of neither rate nor time left is anything known
