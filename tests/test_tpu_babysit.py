"""The loop that keeps a run alive, with a gcloud that plays what can befall it."""

import shlex
from collections.abc import Iterator
from functools import partial

import pytest
from tpu_cloud import CREATE, TRAIN, Cloud, babysit

from tpu import archive, commands, cost, records
from tpu import cloud as gcloud
from tpu.babysit import plan

NORMAL = ["describe", "status"]
PREPARED = ["status", "scp", "setup", "scp", "push", "start"]


@pytest.fixture
def cloud(tmp_path, capfd, monkeypatch) -> Iterator[Cloud]:
    made = Cloud(tmp_path, capfd, monkeypatch)
    yield made
    made.close()


def create(cloud: Cloud, *plays: list[str], **world) -> None:
    cloud.set(plays=list(plays), **world)
    assert cloud.launch(*CREATE, "--yes").code == 0
    cloud.forget_calls()


def test_from_the_queue_to_the_end(cloud):
    create(
        cloud,
        ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        workers=2,
    )
    nothing = [lambda: None] * 3
    done, sleeper = babysit(cloud, then=[*nothing, partial(cloud.finish, 0)])
    assert done.code == 0, done
    waited = ["describe"] * 3
    ended = ["describe", "status", "describe", "log", "delete"]
    assert cloud.verbs() == [*waited, "describe", *PREPARED, *NORMAL, *ended]
    assert sleeper.slept == [60.0, 90.0, 60.0, 60.0]  # longer while nothing changes
    assert records.names() == []
    assert "16 chips at $0.50 = $8.00 an hour while ACTIVE; at most 9 hours ($72.00)" in done.out
    assert "run-1: deleted [at most $0.27 so far]" in done.out  # two of the minutes
    kept = (records.folder() / "run-1.log").read_text()
    assert "w0: training on tpu,cpu, one of 4" in kept
    assert "w1: --- " in kept


def test_nothing_begins_without_a_yes(cloud):
    cloud.ready()
    done, _ = babysit(cloud, answer="n\n")
    assert (done.code, cloud.calls()) == (1, [])


@pytest.mark.parametrize(
    ("states", "looked"),
    [
        (["SUSPENDING", "SUSPENDED"], ["describe", "describe"]),
        (["FAILED"], ["describe"]),
        # The workers do not answer, and their node tells why, before the queued resource does.
        (["PREEMPTED", "ACTIVE"], ["describe", "status", "node", "describe"]),
    ],
)
def test_after_preemption_the_same_command_runs_on_a_new_slice(cloud, states, looked):
    cloud.ready()
    cloud.set(plays=[["PROVISIONING", "ACTIVE"]])
    first = [lambda: cloud.words() and cloud.play(*states)]
    waits = [lambda: None] * (2 + states.count("SUSPENDING"))
    done, _ = babysit(cloud, then=[*first, *waits, partial(cloud.finish, 0)])
    assert done.code == 0, done
    begun = ["describe", "status", "start", *NORMAL]
    again = ["delete", "create", "describe", "describe", *PREPARED, *NORMAL]
    verbs = cloud.verbs()
    assert verbs[: len(begun)] == begun
    assert verbs[len(begun) : -5] == [*looked, *again]
    starts = [call for call in cloud.calls() if any(" start " in word for word in call)]
    assert len(starts) == 2
    assert starts[0] == starts[1] == commands.start(_resource(), TRAIN)
    assert "restart 1 of at most 10" in done.out


def _resource():
    return records.Resource(
        "run-1", "my-project", "us-west4-a", "v5litepod-16", "", "spot", 0.5, {}, "", 0.0
    )


def test_what_is_gone_is_created_again(cloud):
    """Somebody has deleted it, or a queue has dropped it."""
    cloud.ready()
    cloud.set(resources={})
    done, _ = babysit(cloud, then=[lambda: None, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs()[:3] == ["describe", "create", "describe"]
    assert "delete" not in cloud.verbs()[:-1]


def test_quota_that_is_not_free_yet_is_tried_again(cloud):
    cloud.ready()
    cloud.set(refusals=["Quota 'TPUs' exhausted", "RESOURCE_EXHAUSTED: quota", ""])
    cloud.play("SUSPENDED")
    waits = [*[lambda: None] * 3, partial(cloud.finish, 0)]
    done, sleeper = babysit(cloud, "--max-restarts", "1", then=waits)
    assert done.code == 0, done
    assert "was lost (absent); restart 1 of at most 1" in done.out  # for all three requests
    assert cloud.verbs().count("create") == 3
    assert "take another zone" in done.out
    assert sleeper.slept[:3] == [60.0, 90.0, 135.0]


def test_restarts_are_counted_and_end(cloud):
    create(cloud, *[["SUSPENDED"]] * 9)
    done, _ = babysit(cloud, "--max-restarts", "3")
    assert done.code == 1
    assert cloud.verbs().count("create") == 3
    assert cloud.verbs()[-1] == "delete"
    assert "and --max-restarts 3 are used up" in done.out
    assert records.names() == []


def test_hours_end_with_a_saved_run_and_no_resource(cloud):
    cloud.ready()
    done, sleeper = babysit(cloud, "--max-hours", "0.5", then=[lambda: cloud.words()])
    assert done.code == 1
    verbs = cloud.verbs()
    at = verbs.index("stop")
    assert set(verbs[at + 1 :]) == {"status", "describe", "log", "delete"}
    assert "--max-hours 0.5 are over" in done.out
    # Every look at a run that still saves was followed by a pause; the hours are those before.
    saving = verbs[at + 1 :].count("status") - 1
    assert sum(sleeper.slept) - 60.0 * saving == pytest.approx(1800, abs=2)
    assert "exit status 143" in (records.folder() / "run-1.log").read_text()
    cloud.set()
    assert cloud.world["resources"] == {}


@pytest.mark.parametrize(("code", "status"), [(1, 1), (2, 2), (127, 127), (143, 143)])
def test_a_run_that_ends_by_itself_is_not_begun_again(cloud, code, status):
    cloud.set(workers=2)
    cloud.ready()
    done, _ = babysit(cloud, then=[partial(cloud.finish, code, 1)])
    assert done.code == status
    assert cloud.verbs().count("start") == 1
    assert "create" not in cloud.verbs()
    told = "was stopped by hand" if code == 143 else f"failed by itself with exit status {code}"
    assert told in done.out
    assert cloud.verbs()[-1] == "delete"


@pytest.mark.parametrize("code", [1, 75])
def test_a_failure_that_was_a_preemption(cloud, code):
    """The run ends first, of its lost neighbours, and only then is the resource seen to go."""
    cloud.ready()

    def preempt() -> None:
        cloud.play("SUSPENDED")
        cloud.unfinish()

    again = [lambda: None, partial(cloud.finish, 0)]
    done, _ = babysit(cloud, then=[partial(cloud.finish, code), preempt, *again])
    assert done.code == 0, done
    assert f"exit status {code}; looking whether it was preempted" in done.out
    assert cloud.verbs().count("create") == 1


def test_a_run_that_was_killed_begins_again_in_its_place(cloud):
    cloud.set(workers=2)
    cloud.ready()
    again = [*[lambda: None] * 3, cloud.unfinish, partial(cloud.finish, 0)]
    done, _ = babysit(cloud, then=[partial(cloud.finish, 137, 1), *again])
    assert done.code == 0, done
    assert cloud.verbs().count("start") == 2
    assert "create" not in cloud.verbs()
    assert "the run died with exit status 137; restart 1 of at most 10" in done.out


def test_a_worker_that_was_rebooted(cloud):
    """Its run has left neither a process nor an exit status."""
    cloud.ready()

    def reboot() -> None:
        cloud.words()
        cloud.finish(0)
        (cloud.home() / "lmjax-run" / "exit").unlink()
        cloud.unfinish()

    done, _ = babysit(cloud, then=[reboot, *[lambda: None] * 4, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs().count("start") == 2


def test_a_cloud_that_cannot_be_reached_loses_nothing(cloud):
    cloud.ready()
    cloud.play(*["ACTIVE"] * 2, *["UNREACHABLE"] * 5, "ACTIVE")
    nothing = [lambda: None] * 6
    done, _ = babysit(cloud, then=[*nothing, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert {"create", "delete"} & set(cloud.verbs()[:-1]) == set()
    assert cloud.verbs().count("start") == 1
    assert "run-1: unknown: ERROR: (gcloud.compute.tpus) There was a problem" in done.out


def test_a_connection_that_is_lost_for_a_while(cloud):
    cloud.ready()
    nothing = [lambda: None] * 3
    cloud.set(silent=3)
    done, _ = babysit(cloud, then=[*nothing, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs().count("node") == 3
    assert "create" not in cloud.verbs()
    assert "no answer from the workers (node READY)" in done.out


def test_workers_that_never_answer_are_given_up(cloud):
    cloud.ready()
    cloud.set(silent=10)
    nothing = [lambda: None] * 10
    done, _ = babysit(cloud, then=[*nothing, partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs().count("create") == 1


def test_workers_that_cannot_be_prepared(cloud):
    create(cloud, ["ACTIVE"])
    (cloud.bin / "broken").touch()
    done, _ = babysit(cloud)
    assert done.code == 1
    assert cloud.verbs().count("push") == 5
    assert "the workers could not be prepared" in done.out
    assert records.names() == []


def test_it_goes_on_after_an_interruption(cloud):
    cloud.ready()

    def interrupt() -> None:
        cloud.words()
        raise KeyboardInterrupt

    done, _ = babysit(cloud, then=[interrupt])
    assert done.code == 130
    assert "goes on costing" in done.err
    assert records.names() == ["run-1"]
    assert "delete" not in cloud.verbs()
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert done.code == 0
    assert cloud.verbs().count("start") == 1


@pytest.mark.parametrize("code", [1, 143])
def test_a_run_that_had_ended_before_is_begun_again(cloud, code):
    """It was stopped by hand, or has failed, and then the loop is asked for it."""
    cloud.ready()
    assert cloud.launch("run", "run-1", "--", *TRAIN).code == 0
    cloud.finish(code)
    cloud.unfinish()
    cloud.forget_calls()
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert cloud.verbs().count("start") == 1


def test_a_loop_that_was_killed_before_it_could_note_the_start(cloud):
    cloud.ready()
    assert cloud.launch("run", "run-1", "--", *TRAIN).code == 0
    resource = records.load("run-1")
    resource.pushed = ""
    records.save(resource)
    cloud.words()
    cloud.forget_calls()
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert done.code == 0, done
    assert "scp" not in cloud.verbs()


def test_what_would_change_it_meanwhile_is_refused(cloud):
    """Without which a resource that was deleted beside the loop would be created again by it."""
    cloud.ready()
    told = []

    def meanwhile() -> None:
        cloud.words()
        changes = [["delete"], ["push"], ["setup"], ["run", "--", "x"]]
        changes.append(["babysit", "--max-hours", "1", "--", *TRAIN])
        for verb, *words in changes:
            told.append(cloud.launch(verb, "run-1", *words, "--yes"))
        before = records.load("run-1")
        told.extend([cloud.launch("status"), cloud.launch("logs", "run-1")])
        assert records.load("run-1") == before
        assert cloud.launch("stop", "run-1").code == 0
        cloud.until((cloud.home() / "lmjax-run" / "exit").exists)

    done, _ = babysit(cloud, then=[meanwhile])
    assert [each.code for each in told] == [2] * 5 + [0] * 2
    assert {"in the hands of another process" in each.err for each in told[:5]} == {True}
    assert (done.code, "stopped by hand" in done.out) == (143, True)


def test_another_run_on_the_same_resource_is_left_alone(cloud):
    cloud.ready()
    assert cloud.launch("run", "run-1", "--", "lmjax", "train", "other").code == 0
    cloud.words()
    done, _ = babysit(cloud)
    assert (done.code, "run-1 has another run: lmjax train other" in done.err) == (2, True)
    resource = records.load("run-1")
    resource.command, resource.pushed = [], ""
    records.save(resource)
    cloud.forget_calls()
    done, _ = babysit(cloud)
    assert (done.code, "another run is going on" in done.err) == (1, True)
    assert "delete" not in cloud.verbs()
    cloud.finish(0)


def test_one_that_is_kept(cloud):
    cloud.ready()
    done, _ = babysit(cloud, "--keep", then=[partial(cloud.finish, 0)])
    assert (done.code, records.names()) == (0, ["run-1"])
    assert "delete" not in cloud.verbs()
    assert "kept, and costing: 16 chips at $0.50 = $8.00 an hour" in done.out


def test_deletion_is_tried_until_it_succeeds_or_tells_how(cloud):
    cloud.ready()
    cloud.set(undeletable=2)
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert (done.code, cloud.verbs().count("delete")) == (0, 3)
    cloud.ready()
    cloud.unfinish()
    cloud.set(undeletable=99)
    done, _ = babysit(cloud, then=[partial(cloud.finish, 0)])
    assert (done.code, records.names()) == (1, ["run-1"])
    by_hand = shlex.join(commands.delete(records.load("run-1")))
    assert "was not deleted and may go on costing: ERROR: (gcloud.compute.tpus) UNAVAIL" in done.err
    assert done.err.endswith(f"; try again, or by hand: {by_hand}\n")


def test_a_dry_run_prints_all_that_is_executed_and_no_more(cloud):
    """In a life that has everything: silence, preemption, hours that are over, a frozen run."""
    create(cloud, ["ACTIVE"], ["ACTIVE"])
    dry, _ = babysit(cloud, "--dry-run")
    assert (dry.code, cloud.calls()) == (0, [])
    told = [shlex.split(line) for line in dry.out.splitlines() if not line.startswith("#")]

    def preempt() -> None:
        cloud.words()
        cloud.set(silent=1)
        cloud.play("ACTIVE", "SUSPENDED")

    waits = [lambda: None] * 3
    done, _ = babysit(cloud, "--max-hours", "0.2", then=[preempt, *waits, cloud.freeze])
    assert "--max-hours 0.2 are over" in done.out
    executed = cloud.calls()
    assert [call for call in executed if call not in told] == []
    assert [call for call in told if call not in executed] == []
    resource = _resource()
    other = [step for _, steps in plan(resource, archive.pack()[0], ["x"]) for step in steps]
    assert [call for call in executed if call not in other]  # the comparison can fail


@pytest.mark.parametrize(
    ("states", "seconds"),
    [
        (["ACTIVE", "ACTIVE"], 100),
        (["ACTIVE", "SUSPENDED"], 100),  # it may have gone just now
        (["PROVISIONING", "ACTIVE"], 100),  # it may have come just then
        (["PROVISIONING", "PROVISIONING"], 0),
        (["SUSPENDED", gcloud.ABSENT], 0),
        (["ACTIVE", gcloud.UNKNOWN], 100),
        (["PROVISIONING", gcloud.UNKNOWN], 0),
        (["ACTIVE", gcloud.UNKNOWN, "SUSPENDED"], 200),
    ],
)
def test_cost_is_counted_upwards(cloud, states, seconds):
    resource = _resource()
    for at, state in enumerate(states):
        cost.account(resource, state, 100.0 * at)
    assert resource.billed == seconds
    assert cost.so_far(resource) == pytest.approx(8.0 * seconds / 3600)
