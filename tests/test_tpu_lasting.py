"""A lost worker, a hanging command, a full disk: none ends a run, or leaves a slice that costs."""

import errno
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from tpu_cloud import Cloud, babysit

from lmjax.errors import PEER_GONE
from tpu import records
from tpu.babysit import most_telling
from tpu.cloud import call

FOREVER = 60.0  # seconds that the stand-in hangs
CHANGES = (" create ", " delete ", " scp ", " setup ", " push ", " start ")


@pytest.fixture
def cloud(tmp_path, capfd, monkeypatch) -> Iterator[Cloud]:
    made = Cloud(tmp_path, capfd, monkeypatch)
    yield made
    made.close()


def nothing(times: int) -> list[Any]:
    return [lambda: None] * times


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([1, 137], 1),  # one failed by itself, and another was killed
        ([75, 1], 1),
        ([75, 75, 2], 2),
        ([1, 2], 2),  # the second's bad input, of which the first has ended
        ([75, 137], 137),
        ([75, 139], 139),
        ([75, 75], 75),
        ([143, 137], 137),
        ([143, 75], 75),
        ([143, 143], 143),
    ],
)
def test_what_tells_of_several_workers_why_their_run_has_ended(codes, told):
    assert most_telling(codes) == told
    assert most_telling(codes[::-1]) == told


@pytest.mark.parametrize("how", ["killed", "rebooted", "gone"])
def test_one_lost_worker_of_several_begins_the_run_again_in_its_place(cloud, how):
    """The others name it, and end with 75."""
    cloud.set(workers=2)
    cloud.ready()

    def lose() -> None:
        cloud.words(1)
        cloud.finish({"killed": 137, "rebooted": 0, "gone": PEER_GONE}[how], 1)
        cloud.finish(PEER_GONE, 0)
        if how == "rebooted":
            (cloud.home(1) / "lmjax-run" / "exit").unlink()

    done, _ = babysit(cloud, then=[lose, *nothing(3), cloud.unfinish, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs().count("start") == 2
    assert not {"create", "kill"} & set(cloud.verbs())
    status = PEER_GONE if how == "gone" else 137
    assert f"the run died with exit status {status}; restart 1 of at most 10" in done.out


@pytest.mark.parametrize("code", [1, 2])
def test_a_failure_of_one_worker_is_that_of_the_run(cloud, code):
    cloud.set(workers=2)
    cloud.ready()

    def fail() -> None:
        cloud.finish(PEER_GONE, 0)
        cloud.finish(code, 1)

    done, _ = babysit(cloud, then=[fail])
    assert done.code == code
    assert f"failed by itself with exit status {code}" in done.out
    assert cloud.verbs().count("start") == 1


def test_one_worker_that_hangs_is_killed_before_the_run_begins_again(cloud):
    """Else its start would find a run going on, and the others would wait for it in vain."""
    cloud.set(workers=2)
    cloud.ready()

    def hang() -> None:
        cloud.freeze(1)
        cloud.finish(PEER_GONE, 0)

    waits = [*nothing(3), cloud.unfinish, *nothing(10)]
    done, _ = babysit(cloud, "--keep", then=[hang, *waits, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert [verb for verb in cloud.verbs() if verb in ("start", "stop", "kill")] == [
        *("start", "stop", "kill", "start")
    ]
    log = (cloud.home(1) / "lmjax-run" / "log").read_text()
    assert log.count("exit status 137") == 1
    assert log.count("training on") == 2


def test_a_command_that_does_not_answer_is_ended_with_what_it_started(cloud, tmp_path):
    """As an ssh that gcloud waits for; its process holds the lock while it lives."""
    lock = tmp_path / "held"
    tools = cloud.bin / "tools"
    cloud.program(cloud.bin / "gcloud", f"#!{tools}/bash\nPATH={tools} flock {lock} sleep 60\n")
    answer = call(["gcloud"], 0.5)
    assert (answer.code, answer.reason) == (124, "no answer within 0.5 s")
    assert lock.exists()
    free = [tools / "flock", "--nonblock", lock, tools / "true"]
    cloud.until(lambda: subprocess.run(free, check=False).returncode == 0)


def test_what_holds_the_output_of_a_command_that_was_ended_is_not_waited_for(cloud):
    """As an ssh that has left for the background, with a session of its own."""
    tools = cloud.bin / "tools"
    cloud.program(
        cloud.bin / "gcloud", f"#!{tools}/bash\nPATH={tools}\nsetsid sleep 9 &\nsleep 60\n"
    )
    begun = time.monotonic()
    assert call(["gcloud"], 0.5).code == 124
    assert time.monotonic() - begun < 6


def test_output_of_any_bytes_is_an_answer(cloud):
    cloud.program(cloud.bin / "gcloud", f"#!{cloud.bin}/tools/bash\nprintf 'a\\xffb\\n'\n")
    assert call(["gcloud"]).out == "a\ufffdb\n"


def test_nothing_is_waited_for_without_a_limit(cloud, monkeypatch):
    """In a life with a preemption; a change, or preparing, may take half an hour."""
    waited, communicate = [], subprocess.Popen.communicate

    def noted(process: Any, input: Any = None, timeout: float | None = None) -> Any:
        waited.append((" ".join(process.args), timeout))
        return communicate(process, input, timeout)

    cloud.ready()
    monkeypatch.setattr(subprocess.Popen, "communicate", noted)
    lost = partial(cloud.play, "SUSPENDED")
    done, _ = babysit(cloud, then=[lost, *nothing(2), partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert len(waited) == len(cloud.calls()) > 10
    for command, seconds in waited:
        assert seconds is not None, command
        assert seconds <= (1800 if any(each in command for each in CHANGES) else 300), command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("queued-resources describe", "unknown: no answer within 300 s"),
        ("queued-resources create", "run-1 was not created: no answer within 1800 s"),
        ("queued-resources delete", "may go on costing: no answer within 1800 s"),
        ("worker.sh start", "no answer from the workers (node READY): no answer within 300 s"),
    ],
)
def test_what_hangs_is_ended_and_tried_again(cloud, monkeypatch, words, told):
    """Its limit passes within a second here, once the call is known to hang."""
    communicate, hung = subprocess.Popen.communicate, cloud.bin / "hang"
    passed = []

    def hurried(process: Any, input: Any = None, timeout: float | None = None) -> Any:
        while not passed and timeout is not None and words in " ".join(process.args):
            try:
                return communicate(process, input, 0.5)
            except subprocess.TimeoutExpired:
                input = None  # what there was has been taken
                if not hung.exists():  # the stand-in has read it, and so hangs
                    passed.append(process)
                    raise
        return communicate(process, input, timeout)

    cloud.ready()
    if "create" in words:
        cloud.set(resources={})
    hung.write_text(words)
    monkeypatch.setattr(subprocess.Popen, "communicate", hurried)
    begun = time.monotonic()
    done, _ = babysit(cloud, then=[*nothing(2), partial(cloud.finish, 0)])
    assert (done.code, hung.exists()) == (0, False), done
    assert time.monotonic() - begun < FOREVER
    assert told in done.out
    assert records.names() == []
    cloud.set()
    assert cloud.world["resources"] == {}


def test_a_log_that_cannot_be_kept_is_told(cloud):
    cloud.ready()
    (records.folder() / "run-1.log").mkdir()
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert (done.code, cloud.verbs()[-1], records.names()) == (0, "delete", [])
    assert "the workers' logs could not be kept: [Errno 21] Is a directory" in done.out


def test_a_log_of_any_bytes_is_kept(cloud):
    cloud.ready()

    def write() -> None:
        cloud.words()
        with open(cloud.home() / "lmjax-run" / "log", "ab") as log:
            log.write(b"half a \xc3 character\n")
        cloud.finish(0)

    done, _ = babysit(cloud, then=[write])
    assert (done.code, cloud.verbs()[-1], records.names()) == (0, "delete", [])
    kept = (records.folder() / "run-1.log").read_text(encoding="utf-8")
    assert "w0: half a \ufffd character" in kept


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_record_that_cannot_be_written_ends_neither_loop_nor_deletion(cloud, monkeypatch):
    cloud.ready()
    fill = partial(monkeypatch.setattr, records, "save", full)
    done, _ = babysit(cloud, then=[fill, *nothing(2), partial(cloud.finish, 0)])
    assert (done.code, cloud.verbs()[-1], records.names()) == (0, "delete", [])
    assert "its record could not be written: [Errno 28] No space left on device" in done.out


def test_words_that_nobody_takes_end_neither_loop_nor_deletion(cloud, monkeypatch):
    """Into a file on a full disk, or onto a terminal that was closed."""
    cloud.ready()
    monkeypatch.setattr("tpu.launch._say", full)
    done, _ = babysit(cloud, then=[*nothing(2), partial(cloud.finish, 0)])
    assert (done.code, cloud.verbs()[-1], records.names()) == (0, "delete", [])
