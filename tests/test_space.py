"""An architecture, its vector, its JSON and its key are four names of one thing; whatever is drawn, changed or
crossed stays in its space, and the same seed draws the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from search_spaces import Architecture, Choice, SearchSpace, StageChoice, presets, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

SMALL = {  # 2 resolutions x (2 widths x (2 + 2 x 2) rows) x 12 choices
    "resolution": [6, 8],
    "stem": {"width": 4},
    "stages": [
        {"width": [4, 6], "depth": [1, 2], "expansion": [1, 0.5], "operators": ["identity"]},
        {"width": 8, "stride": 2, "attention": ["none", "se"]},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5]}}, {"mixed": {"kernels": [[3, 5]]}}, "identity"],
}


def space_of(skeleton, image_shape=(1, 8, 8)) -> SearchSpace:
    return unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, image_shape, 10)


SHARING = {
    "stages": [
        {"width": [4, 6], "depth": [1, 3, 4], "share_kernels": [False, True]},
        {"width": 8, "depth": [2, 3], "share_kernels": True},
        {"width": 8, "depth": 3, "share_kernels": [False, True], "operators": ["dense"]},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5]}}, "dense", "identity"],
}
OF_PRESETS = {name: space_of(name, (1, 32, 32)) for name in presets()}
SPACES = {name: space for name, space in OF_PRESETS.items() if isinstance(space, SearchSpace)} | {
    "small": space_of(SMALL),
    "sharing": space_of(SHARING),
    "one": space_of({"stages": [{"width": 8}], "operators": ["identity"]}),  # nothing to decide
}


@pytest.fixture(params=SPACES)
def space(request) -> SearchSpace:
    return SPACES[request.param]


@pytest.fixture
def samples(space) -> list[Architecture]:
    return [space.sample(Random(seed)) for seed in range(60)]


def vectors_within(space: SearchSpace, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Vectors of which each place is any of its options or 0, without regard to what arises."""
    random = Random(seed)
    return [
        tuple(random.randint(0, len(decision.options)) for decision in space.decisions) for _ in range(count)
    ]


def enumerated(space: SearchSpace) -> list[Architecture]:
    """Every architecture, built from the stages without encode or decode."""
    stages = [
        [
            StageChoice(width, row)
            for width in stage.widths
            for depth in stage.depths
            for row in itertools.product(*(block.choices for block in stage.blocks[:depth]))
        ]
        for stage in space.stages
    ]
    return [
        Architecture(resolution, row)
        for resolution in space.resolutions
        for row in itertools.product(*stages)
    ]


# -- vectors -----------------------------------------------------------------------------------


def test_decoding_what_was_encoded_gives_the_same_architecture(space, samples):
    assert [space.decode(space.encode(one)) for one in samples] == samples


def test_every_vector_within_the_options_is_an_architecture(space):
    for vector in vectors_within(space, 60):
        architecture = space.decode(vector)

        space.check(architecture)
        assert space.decode(space.encode(architecture)) == architecture


def test_many_vectors_are_made_canonical_as_each_would_be():
    for space in (*SPACES.values(), *OF_PRESETS.values()):
        vectors = np.array(vectors_within(space, 300), np.int64).reshape(300, len(space.decisions))
        before = vectors.copy()
        expected = [space.encode(space.decode(vector)) for vector in vectors.tolist()]

        assert space.canonical(vectors).tolist() == [list(one) for one in expected], space.name
        assert (vectors == before).all()


def test_a_place_is_0_exactly_where_its_decision_does_not_arise(space, samples):
    for architecture in samples:
        for value, decision in zip(space.encode(architecture), space.decisions, strict=True):
            assert (value > 0) == arises(decision.name, architecture), decision.name


def arises(decision: str, architecture: Architecture) -> bool:
    """Whether a decision is to be made in an architecture, read off the decision's name."""
    if "share_kernels" in decision:
        row = architecture.stages[int(decision.split()[1])].blocks
        chosen = Counter(choice.operator for choice in row[1:])
        return max(chosen["depthwise"], chosen["dense"]) > 1
    if "block" not in decision:
        return True
    _, stage, _, block, what = decision.split(maxsplit=4)
    row = architecture.stages[int(stage)].blocks
    if int(block) >= len(row):
        return False
    return "." not in what or row[int(block)].operator == what.split(".")[0]


def test_two_vectors_of_one_architecture_differ_only_where_nothing_arises():
    space = SPACES["small"]

    canonical = [space.encode(space.decode(vector)) for vector in vectors_within(space, 300)]

    for vector, canon in zip(vectors_within(space, 300), canonical, strict=True):
        assert all(kept in (0, max(value, 1)) for value, kept in zip(vector, canon, strict=True))


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: (*v, 1), lambda v: (99, *v[1:])])
def test_a_vector_of_another_length_or_beyond_the_options_is_refused_in_one_line(change):
    space = SPACES["small"]

    with pytest.raises(ValueError, match=r"\A[^\n]*(places|options 1 to)[^\n]*\Z"):
        space.decode(change(space.encode(space.sample(Random(0)))))


# -- size --------------------------------------------------------------------------------------


def test_the_size_is_what_enumeration_counts_and_every_one_has_a_vector_and_key_of_its_own():
    space = SPACES["small"]

    everything = enumerated(space)

    assert len(everything) == len(set(everything)) == space.size == 288
    assert len({space.encode(one) for one in everything}) == space.size
    assert len({one.key for one in everything}) == space.size


def test_the_size_stays_exact_beyond_what_a_float_can_hold():
    block = {"width": 8, "depth": 12, "operators": ["identity"], "expansion": list(range(1, 31))}

    space = space_of({"stages": [block, block]})

    assert space.size == 30**24


def test_the_presets_hold_as_many_architectures_as_they_say():
    assert SPACES["tiny"].size == 17_408
    assert SPACES["one"].size == 1


# -- drawing -----------------------------------------------------------------------------------


def test_samples_mutants_and_children_are_of_the_space(space, samples):
    random = Random(1)
    for mother, father in itertools.pairwise(samples):
        space.check(space.mutate(mother, random))
        space.check(space.mutate(mother, random, rate=1.0))
        space.check(space.crossover(mother, father, random))


def test_the_same_seed_draws_the_same(space, samples):
    def drawn(seed):
        random = Random(seed)
        return [
            space.sample(random),
            space.mutate(samples[0], random),
            space.crossover(samples[0], samples[1], random),
        ]

    assert drawn(3) == drawn(3)
    if space.size > 1:
        assert any(drawn(3) != drawn(seed) for seed in range(4, 8))


@pytest.mark.parametrize("rate", [None, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", sorted(SPACES.keys() - {"one"}))
def test_a_mutant_always_differs(name, rate):
    space, random = SPACES[name], Random(2)
    samples = [space.sample(random) for _ in range(60)]

    assert all(space.mutate(one, random, rate) != one for one in samples for _ in range(5))


def test_the_only_architecture_of_a_space_mutates_into_itself():
    space = SPACES["one"]
    only = space.sample(Random(0))

    assert space.mutate(only, Random(1)) == space.crossover(only, only, Random(1)) == only
    assert space.encode(only) == ()


def test_mutation_reaches_every_architecture():
    space = SPACES["small"]
    random, seen = Random(0), set()
    one = space.sample(random)

    for _ in range(40 * space.size):
        one = space.mutate(one, random)
        seen.add(one)

    assert len(seen) == space.size


def test_a_child_of_equal_parents_is_like_them(space, samples):
    assert all(space.crossover(one, one, Random(0)) == one for one in samples)


def test_a_child_takes_each_decision_from_a_parent_that_made_it():
    space = SPACES["small"]
    random = Random(0)
    for _ in range(200):
        mother, father = space.sample(random), space.sample(random)
        child = space.encode(space.crossover(mother, father, random))
        for got, a, b in zip(child, space.encode(mother), space.encode(father), strict=True):
            assert not (got and (a or b)) or got in (a, b)


def test_sampling_is_uniform_per_decision():
    space = SPACES["small"]
    random = Random(0)

    drawn = Counter(space.sample(random).stages[1].blocks[0].operator for _ in range(3000))

    assert all(900 < count < 1100 for count in drawn.values()) and len(drawn) == 3


# -- names -------------------------------------------------------------------------------------


def test_a_key_never_changes():
    depthwise = Choice("depthwise", (("dilation", 1), ("kernel_size", 5)), 2, "se")
    mixed = Choice("mixed", (("kernels", (3, 5)),), 0.5)

    architecture = Architecture(8, (StageChoice(12, (depthwise, mixed)), StageChoice(16, (mixed,))))

    # stores, checkpoints and exports of every version hold keys; do not mend this by another literal
    assert architecture.key == "4ea6c8b1c0a5"


def test_architectures_come_back_from_json_the_same(samples):
    for architecture in samples:
        back = Architecture.from_json(architecture.to_json())

        assert back == architecture
        assert (back.key, back.to_json()) == (architecture.key, architecture.to_json())


def test_spaces_come_back_from_json_the_same(space, samples):
    back = SearchSpace.from_json(space.to_json())

    assert back == space and back.to_json() == space.to_json()
    assert back.decisions == space.decisions and back.size == space.size
    assert [back.encode(one) for one in samples] == [space.encode(one) for one in samples]


def test_an_architecture_of_another_space_is_refused_with_its_place(samples):
    space = SPACES["small"]
    one = space.sample(Random(0))
    first, second = one.stages

    with pytest.raises(ValueError, match=r"resolution is 9; the space offers 6, 8"):
        space.check(replace(one, resolution=9))
    with pytest.raises(ValueError, match=r"has 1 stages, the space custom 2"):
        space.check(replace(one, stages=(first,)))
    with pytest.raises(ValueError, match=r"stage 0 width is 5; the space offers 4, 6"):
        space.check(replace(one, stages=(replace(first, width=5), second)))
    with pytest.raises(ValueError, match=r"stage 1 depth is 3; the space offers 1"):
        space.check(replace(one, stages=(first, replace(second, blocks=second.blocks * 3))))
    for choice, message in [
        (Choice("dense"), r"operator is dense; the space offers depthwise, mixed, identity"),
        (
            Choice("mixed", (("kernels", (3, 9)), ("split", "equal"))),
            r"mixed.kernels is 3\+9; the space offers 3\+5",
        ),
        (Choice("mixed"), r"mixed has settings none; the space has kernels, split"),
        (Choice("identity", attention="eca"), r"attention is eca; the space offers none, se"),
    ]:
        with pytest.raises(ValueError, match=rf"\Astage 1 block 0 {message}\Z"):
            space.check(replace(one, stages=(first, replace(second, blocks=(choice,)))))


def test_an_architecture_in_words_names_what_was_chosen():
    choice = Choice("depthwise", (("dilation", 1), ("kernel_size", 5)), 0.5, "se")

    assert str(Architecture(8, (StageChoice(12, (choice,)),))) == (
        "8 px; width 12: depthwise(dilation=1, kernel_size=5) ×0.5 se"
    )


# -- numbers for predictors and cost tables ----------------------------------------------------


def test_features_are_one_hot_per_decision_and_zero_where_it_does_not_arise(space, samples):
    features = space.features(samples)

    assert features.shape == (len(samples), sum(len(one.options) for one in space.decisions))
    assert features.dtype == np.float32
    start = 0
    for place, decision in enumerate(space.decisions):
        part = features[:, start : start + len(decision.options)]
        chosen = np.array([space.encode(one)[place] for one in samples])
        np.testing.assert_array_equal(part.sum(axis=1), chosen > 0)
        np.testing.assert_array_equal(part.argmax(axis=1)[chosen > 0], chosen[chosen > 0] - 1)
        start += len(decision.options)


def test_features_are_of_the_space_not_of_the_architectures_given(space, samples):
    together = space.features(samples)

    np.testing.assert_array_equal(together, np.concatenate([space.features([one]) for one in samples]))
    assert space.features([]).shape == (0, together.shape[1])


def test_choice_indices_are_places_in_the_choices_of_each_block(space, samples):
    expected = [
        [
            block.choices.index(row[b]) if b < len(row := architecture.stages[s].blocks) else -1
            for s, b, _, block in space.blocks
        ]
        for architecture in samples
    ]

    np.testing.assert_array_equal(space.choice_indices(vectors_of(space, samples)), expected)


def test_level_indices_are_places_in_resolutions_and_widths(space, samples):
    resolutions, widths = space.level_indices(vectors_of(space, samples))

    assert [space.resolutions[at] for at in resolutions] == [one.resolution for one in samples]
    for architecture, row in zip(samples, widths, strict=True):
        chosen = [stage.widths[at] for stage, at in zip(space.stages, row, strict=True)]
        assert chosen == [stage.width for stage in architecture.stages]


def test_indices_do_not_depend_on_places_that_do_not_arise():
    space = SPACES["small"]
    loose = np.array(vectors_within(space, 300))
    canonical = np.array([space.encode(space.decode(vector)) for vector in loose.tolist()])

    np.testing.assert_array_equal(space.choice_indices(loose), space.choice_indices(canonical))
    for one, other in zip(space.level_indices(loose), space.level_indices(canonical), strict=True):
        np.testing.assert_array_equal(one, other)


def vectors_of(space: SearchSpace, architectures: list[Architecture]) -> np.ndarray:
    return np.array([space.encode(one) for one in architectures], dtype=np.int64).reshape(
        len(architectures), len(space.decisions)
    )


# -- resolution --------------------------------------------------------------------------------


def test_the_resolution_is_a_decision_of_its_own():
    space = SPACES["small"]

    drawn = {space.sample(Random(seed)).resolution for seed in range(20)}

    assert drawn == {6, 8}
    assert space.decisions[0].name == "resolution" and space.decisions[0].options == (6, 8)


@pytest.mark.parametrize(
    ("image_shape", "resolution", "expected"),
    [
        ((3, 32, 32), 32, (3, 32, 32)),
        ((3, 32, 48), 16, (3, 16, 24)),
        ((1, 100, 33), 50, (1, 50, 16)),
        ((1, 64, 1), 16, (1, 16, 1)),
    ],
)
def test_a_resolution_is_a_height_with_the_width_in_proportion(image_shape, resolution, expected):
    space = space_of({"stages": [{"width": 8}], "operators": ["identity"]}, image_shape)

    assert space.input_shape(resolution) == expected


def test_the_ends_have_the_least_and_the_most_of_every_number():
    smallest, largest = SPACES["digits"].ends

    assert [stage.width for stage in smallest.stages] == [12, 16, 24]
    assert [stage.width for stage in largest.stages] == [24, 32, 48]
    assert [len(stage.blocks) for stage in largest.stages] == [2, 3, 2]
    assert largest.stages[0].blocks[0] == Choice(
        "depthwise", (("dilation", 1), ("kernel_size", 5), ("transform", False)), expansion=4
    )
