"""Requests to stop, in the process itself: what comes during a save loses nothing."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from etils import epath

from lmjax import runfiles, seal, signals, train
from lmjax.checkpoint import Checkpoints
from lmjax.signals import Stopped, StopRequest


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def send_while_sealing(monkeypatch, step: int, *numbers: int) -> list[int]:
    """Signals to this process from the thread that writes a step; returns those sent so far."""
    real, sent = seal.seal, []

    def disturbed(folder: Path) -> None:
        if folder.name.startswith(f"{step}.") and not sent:
            for number in numbers:
                os.kill(os.getpid(), number)
                sent.append(number)
                time.sleep(0.2)  # the main thread hears it meanwhile
        real(folder)

    monkeypatch.setattr(seal, "seal", disturbed)
    return sent


def ask_at(monkeypatch, step: int) -> None:
    """The first request, right after a step was dispatched."""
    real = train.is_due

    def asks(now: int, every: int, last: int) -> bool:
        if now == step:
            monkeypatch.setattr(train, "is_due", real)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(now, every, last)

    monkeypatch.setattr(train, "is_due", asks)


@pytest.mark.parametrize("last", [False, True], ids=["asked to", "at its end"])
def test_more_signals_during_the_save_lose_nothing(tiny_mlp, monkeypatch, last):
    monkeypatch.setattr(signals, "TOGETHER", 0.0)
    whole = train.run(tiny_mlp, "whole", quiet=True)
    step = 12 if last else 7
    if not last:
        ask_at(monkeypatch, step)
    sent = send_while_sealing(monkeypatch, step, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    told = ""
    try:
        train.run(tiny_mlp, "run", quiet=True)
    except (Stopped, KeyboardInterrupt) as error:
        told = str(error)
    assert len(sent) == 3
    # The last save goes on beside the last evaluation, which a second signal interrupts if it is
    # not over by then.
    assert last or told.startswith(f"stopped by SIGTERM and saved at step {step};")
    assert Checkpoints(epath.Path("run/checkpoints")).latest() == step
    seal.verify(Path("run/checkpoints", str(step)))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    result = train.run(tiny_mlp, "run", quiet=True)
    assert last or result["resumed_from"] == step
    assert result["state_digest"] == whole["state_digest"]
    assert Path("run/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()


def test_without_the_hold_the_second_one_interrupts(tiny_mlp, monkeypatch):
    """Negative control: the signals are heard while the save goes on."""
    monkeypatch.setattr(signals, "TOGETHER", 0.0)
    monkeypatch.setattr(StopRequest, "held", lambda self: contextlib.nullcontext())
    ask_at(monkeypatch, 7)
    send_while_sealing(monkeypatch, 7, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train.run(tiny_mlp, "run", quiet=True)


def test_a_second_signal_interrupts_unless_it_belongs_to_the_first(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.number == signal.SIGINT
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher's, of the same request
        now[0] += 9.0
        with request.held():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGINT


def test_a_request_after_the_last_save_ends_with_the_result(tiny_mlp, monkeypatch):
    """There is nothing left to lose, and nothing that would be done again."""
    real = train.evaluate_and_log

    def asked(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(train, "evaluate_and_log", asked)
    result = train.run(tiny_mlp, "run", quiet=True)
    assert json.loads(Path("run", runfiles.RESULT).read_text()) == result
