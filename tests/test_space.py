"""Every optimizer says where it comes from and over what it is tuned."""

import sys
from typing import Any

import pytest

from lmjax.errors import InputError
from lmjax.optim import AdamW, Choice, LogGrid, Muon, Optimizer, check_space
from lmjax.optim.recipe import MatrixOptimizer
from lmjax.parts import alternatives, leaves


def ours() -> list[type[Optimizer]]:
    found = alternatives(Optimizer).items()
    return [cls for _, cls in sorted(found) if cls.__module__.startswith("lmjax.")]


@pytest.mark.parametrize("cls", ours(), ids=lambda cls: cls.label)
def test_its_search_space_fits_and_holds_its_defaults(cls: type[Optimizer]) -> None:
    optimizer = cls()
    check_space(optimizer, cls.search_space)
    fields = leaves(optimizer)
    assert next(iter(cls.search_space)) == "learning_rate"
    for path, space in cls.search_space.items():
        default = fields[path][1]
        if isinstance(space, LogGrid):
            assert space.low < default < space.high  # with room on both sides
        else:
            assert default in space.values
    if isinstance(optimizer, MatrixOptimizer):
        assert (
            cls.search_space["auxiliary.learning_rate"]
            == Muon.search_space["auxiliary.learning_rate"]
        )
        assert optimizer.auxiliary == Muon().auxiliary


@pytest.mark.parametrize("cls", ours(), ids=lambda cls: cls.label)
def test_its_reference_is_in_its_docstring(cls: type[Optimizer]) -> None:
    told, reference = sys.modules[cls.__module__].__doc__ or "", cls.reference
    assert reference is not None
    assert f"{reference.repository}@{reference.commit[:7]}" in told.replace("\n", "")
    if "://" not in reference.paper:
        assert f"arXiv {reference.paper}" in told


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"learning_rat": LogGrid(1e-3, 1.0)}, "'learning_rat'; nearest: learning_rate"),
        ({"b2": Choice((0.9, 1.0))}, "b2 = 1.0: must be >= 0 and < 1"),
        ({"b2": Choice((True,))}, "b2 = True: must be float"),
        ({"auxiliary.b1": Choice((0.9,))}, "hyper-parameter of adamw 'auxiliary.b1'"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space: Any, told: str) -> None:
    with pytest.raises(InputError) as error:
        check_space(AdamW(), space)
    assert told in str(error.value)


def test_a_grid_holds_round_numbers_and_a_window_moves_over_it() -> None:
    grid = LogGrid(1e-4, 1e-2)
    assert grid.values == (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    assert LogGrid(2e-4, 5e-2, per_decade=3).values == (
        *(2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
    )
    assert grid.window(1e-3, 3) == (3e-4, 1e-3, 3e-3)
    assert grid.window(9e-4, 3) == grid.window(1e-3, 3)
    assert grid.window(1e-9, 3) == grid.values[:3]
    assert grid.window(1.0, 4) == grid.values[1:]
    assert grid.neighbour(3e-4, -1) == 1e-4
    assert grid.neighbour(1e-4, -1) is None
    assert grid.neighbour(1e-2, 1) is None
    bad = [(1e-4, 2e-2, 2), (4e-4, 1e-2, 2), (1e-2, 1e-4, 2), (1.0, 10.0, 4), (0.0, 1.0, 2)]
    for low, high, per_decade in bad:
        with pytest.raises(ValueError):
            LogGrid(low, high, per_decade)
    for count in (0, 6):
        with pytest.raises(ValueError):
            grid.window(1e-3, count)
    for values in ((), (1.0, 1.0)):
        with pytest.raises(ValueError):
            Choice(values)
