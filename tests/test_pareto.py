"""Nothing on the front is dominated, nothing off it is missing, and volumes have known values."""

from __future__ import annotations

import numpy as np
import pytest

from nas.pareto import front, hypervolume, knee, knee_candidate, nondominated, reference_point
from nas.storage.records import Candidate, Constraint, Objective

ACCURACY = Objective("accuracy", "accuracy", "%", "maximize")
LATENCY = Objective("latency", "latency_ms", "ms", "minimize")


def candidate(key, accuracy, latency, **fields):
    return Candidate(key, "{}", {"accuracy": accuracy, "latency_ms": latency}, **fields)


def staircase(steps):
    return np.array([[step, steps - 1 - step] for step in range(steps)], float)


# -- dominance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_dominance_is_what_its_definition_says(objectives):
    points = np.random.default_rng(objectives).integers(0, 4, (60, objectives))
    nowhere_worse = (points[:, None] <= points[None]).all(axis=2)
    somewhere_better = (points[:, None] < points[None]).any(axis=2)

    mask = nondominated(points)

    np.testing.assert_array_equal(mask, ~(nowhere_worse & somewhere_better).any(axis=0))


def test_equal_points_are_all_kept():
    assert nondominated([[1, 2], [1, 2], [2, 1], [1, 3]]).tolist() == [True, True, True, False]


def test_no_points_have_no_front_and_no_volume():
    assert nondominated(np.zeros((0, 2))).tolist() == []
    assert hypervolume(np.zeros((0, 2)), [1, 1]) == 0


def test_values_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="finite"):
        nondominated([[1, np.nan]])
    with pytest.raises(ValueError, match=r"\(n, objectives\)"):
        nondominated([1, 2])


# -- hypervolume -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_the_volume_under_a_staircase_is_a_triangular_number(steps):
    assert hypervolume(staircase(steps), [steps, steps]) == steps * (steps + 1) / 2


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_unit_vectors_cover_all_but_the_corner_at_the_ideal(objectives):
    assert hypervolume(np.eye(objectives), np.full(objectives, 2)) == pytest.approx(2**objectives - 1)


def test_dominated_points_and_points_beyond_the_reference_add_nothing():
    alone = hypervolume([[1, 1]], [3, 3])

    assert hypervolume([[1, 1], [2, 2], [5, 0], [3, 0]], [3, 3]) == alone == 4


def test_a_reference_for_another_number_of_objectives_is_refused():
    with pytest.raises(ValueError, match="reference for 2 objectives"):
        hypervolume([[1, 1]], [3, 3, 3])


def test_the_reference_lies_a_tenth_of_the_range_beyond_the_worst():
    np.testing.assert_allclose(reference_point([[0, 5], [10, 5], [2, 5]]), [11, 5.5])
    np.testing.assert_allclose(reference_point([[0, -5]]), [0.1, -4.5])


def test_there_is_no_reference_for_no_points():
    with pytest.raises(ValueError, match="no reference point for no points"):
        reference_point(np.zeros((0, 2)))


# -- knee --------------------------------------------------------------------------------------


def test_the_knee_is_where_a_bent_front_bends():
    assert knee([[0, 10], [1, 2], [5, 1], [10, 0]]) == 1


def test_the_knee_does_not_depend_on_units():
    points = np.array([[0, 10], [1, 2], [5, 1], [10, 0]])

    assert knee(points * [1000, 0.001] + [7, -3]) == knee(points)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_knee_among_unit_vectors_is_the_point_nearest_the_ideal(objectives):
    points = np.vstack([np.eye(objectives), np.full(objectives, 0.1)])

    assert knee(points) == objectives


def test_dominated_points_do_not_move_the_knee():
    points = [[0, 10], [1, 2], [5, 1], [10, 0]]

    assert knee([[100, 100], *points]) == knee(points) + 1


@pytest.mark.parametrize("points", [[[3, 4]], [[2, 2], [2, 2], [2, 2]]], ids=["one point", "equal points"])
def test_of_equal_points_the_first_is_the_knee(points):
    assert knee(points) == 0


@pytest.mark.parametrize(
    "points",
    [
        [[-10, 0.0100], [-97, 0.0101]],
        [[-25.8, 0.0157], [-47.0, 0.0162]],
        [[-25.8, 0.0157], [-33.0, 0.0160], [-47.0, 0.0162]],  # bulging away from the ideal
        [[-10, 0.0100], [-50, 0.0102], [-90, 0.0104]],  # straight
        [[-97.5, 9.0], [-97.0, 1.0]],
        [[0, 5, 1], [4, 5, 0.99]],
    ],
    ids=["two points", "two slow ones", "bulge", "straight", "the other way round", "three objectives"],
)
def test_where_no_point_lies_beyond_the_extremes_the_knee_gives_up_least(points):
    """A small share of one objective for a large one of the other, in whatever order and units they come."""
    points = np.array(points)
    best = 0 if points.shape[1] == 3 else len(points) - 1

    assert knee(points) == knee(points * ([1000, 0.001, 7][: points.shape[1]])) == best
    assert knee(points[::-1]) == len(points) - 1 - best
    assert knee(np.vstack([points, points.max(axis=0) + 1])) == best  # dominated


def test_of_ends_that_are_far_apart_in_everything_the_knee_is_between():
    assert knee([[-20, 0.01], [-50, 0.5], [-97, 1.0]]) == 1
    assert knee([[0, 10], [6, 6], [10, 0]]) == 1


def test_a_point_beyond_the_extremes_is_the_knee_whatever_the_ends_give_up():
    assert knee([[-10, 0.0100], [-60, 0.01004], [-97, 0.0101]]) == 1


def test_an_objective_in_which_all_are_equal_says_nothing():
    assert knee([[0, 10, 7], [1, 2, 7], [5, 1, 7], [10, 0, 7]]) == 1


def test_there_is_no_knee_of_no_points():
    with pytest.raises(ValueError, match="no knee of no points"):
        knee(np.zeros((0, 2)))


# -- over candidates ---------------------------------------------------------------------------


def test_the_front_goes_from_fast_to_slow_and_knows_the_goals():
    everyone = [candidate("a", 80, 3.0), candidate("b", 70, 1.0), candidate("c", 60, 2.0)]

    assert [one.key for one in front(everyone, (ACCURACY, LATENCY))] == ["b", "a"]


def test_what_failed_or_lacks_a_value_is_not_on_the_front():
    everyone = [
        candidate("a", 80, 3.0, error="out of memory"),
        Candidate("b", "{}", {"accuracy": 99.0}),
        candidate("c", 99, float("nan")),
        candidate("d", 60, 2.0),
    ]

    assert [one.key for one in front(everyone, (ACCURACY, LATENCY))] == ["d"]


def test_an_uncertain_value_must_keep_a_constraint_by_its_worse_end():
    limit = Constraint("latency_ms", max=2.0)
    sure = candidate("sure", 70, 1.9)
    unsure = candidate("unsure", 90, 1.9, intervals={"latency_ms": (1.8, 2.1)})

    assert front([sure, unsure], (ACCURACY, LATENCY), (limit,)) == [sure]


def test_a_limit_on_what_was_not_measured_is_not_kept():
    assert front([candidate("a", 70, 1.9)], (ACCURACY, LATENCY), (Constraint("bytes", max=10),)) == []


def test_the_knee_of_a_front_is_one_of_its_candidates():
    everyone = [candidate("a", 70, 1.0), candidate("b", 90, 1.5), candidate("c", 91, 9.0)]

    assert knee_candidate(front(everyone, (ACCURACY, LATENCY)), (ACCURACY, LATENCY)).key == "b"
