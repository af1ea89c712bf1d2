"""A data source that hangs is told once, with the place where it hangs."""

import time
from collections.abc import Iterator

from lmjax.watchdog import watched


def hangs_at(slow: int) -> Iterator[int]:
    for number in range(5):
        if number == slow:
            time.sleep(0.8)
        yield number


def test_a_source_that_hangs_is_told_with_its_stacks():
    told: list[str] = []
    assert list(watched(hangs_at(3), 10, lambda *lines: told.extend(lines), 0.2)) == list(range(5))
    assert told[0] == "no batch for step 14 in 0.2 s; where each thread stands:"
    assert sum("no batch" in line for line in told) == 1
    assert any("in hangs_at" in line for line in told)
    assert any("time.sleep(0.8)" in line for line in told)


def test_a_loop_that_is_slow_itself_is_not():
    told: list[str] = []
    for _ in watched(hangs_at(-1), 0, lambda *lines: told.extend(lines), 0.1):
        time.sleep(0.3)
    assert told == []
