"""A skeleton unrolls into exactly the space it writes; what it cannot mean is refused in one line that names the
key, the value, what is allowed and the nearest match.
"""

from __future__ import annotations

from random import Random

import pytest

from search_spaces import SearchSpace, presets, read_skeleton, unroll
from search_spaces.parts import Block, Option
from search_spaces.strict import parse_yaml
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

SMALLEST = """
stages:
  - {width: 8}
operators: [identity]
"""


def unrolled(text: str, image_shape=(1, 8, 8)) -> SearchSpace:
    """The space of a skeleton as a person writes it, with the operators and attentions that exist."""
    return unroll(read_skeleton(parse_yaml(text, "x.yaml")), OPERATORS, ATTENTIONS, image_shape, 10)


def blocks_of(text: str) -> list[Block]:
    return [stage.blocks[0] for stage in unrolled(text).stages]


# -- what it unrolls into ----------------------------------------------------------------------


def test_the_presets_are_the_files_of_the_folder():
    assert {"tiny", "digits", "mobile"} <= set(presets())


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [(name, shape) for name in presets() if "_224" not in name for shape in [(1, 28, 28), (3, 32, 32)]]
    + [(name, (3, 224, 224)) for name in presets() if "_224" in name]
    + [("tiny", (1, 8, 8)), ("digits", (1, 8, 8))],
)
def test_every_preset_unrolls(name, image_shape):
    space = unroll(read_skeleton(name), OPERATORS, ATTENTIONS, image_shape, 10)

    assert (space.name, space.image_shape, space.classes) == (name, image_shape, 10)
    assert space.resolutions[-1] == image_shape[1]
    assert space.size > 1000
    space.check(space.sample(Random(0)))


def test_what_is_left_out_has_its_default():
    space = unrolled(SMALLEST)

    assert (space.stem.width, space.stem.kernel_size, space.stem.stride) == (16, 3, 1)
    assert (space.resolutions, space.head_width, space.activation) == ((8,), 0, "relu")
    [stage] = space.stages
    assert (stage.widths, stage.depths, stage.stride, stage.activation) == ((8,), (1,), 1, "relu")
    assert stage.blocks == (Block(options=(Option("identity"),)),)


def test_everything_that_is_written_is_in_the_space():
    space = unrolled(
        """
        name: mine
        resolution: [8, 6]
        stem: {width: 4, kernel_size: 5, stride: 2}
        stages:
          - {width: [12, 8], depth: [3, 1], stride: 2, activation: silu}
        operators:
          - depthwise: {kernel_size: [5, 3], dilation: 2}
          - mixed: {kernels: [3, 5]}
          - max_pool
        expansion: [2, 0.5, 1.0]
        attention: [se, none]
        activation: hardswish
        head: {width: 32}
        """
    )

    assert (space.name, space.resolutions, space.head_width) == ("mine", (6, 8), 32)
    assert (space.stem.width, space.stem.kernel_size, space.stem.stride) == (4, 5, 2)
    [stage] = space.stages
    assert (stage.widths, stage.depths, stage.stride) == ((8, 12), (1, 3), 2)
    assert (space.activation, stage.activation) == ("hardswish", "silu")
    [block] = set(stage.blocks)
    assert len(stage.blocks) == 3
    assert block.options == (
        Option("depthwise", (("dilation", (2,)), ("kernel_size", (3, 5)), ("transform", (False,)))),
        Option("mixed", (("kernels", ((3, 5),)), ("split", ("equal",)))),
        Option("max_pool", (("kernel_size", OPERATORS["max_pool"].settings["kernel_size"]),)),
    )
    assert block.expansions == (0.5, 1, 2) and all(type(one) is int for one in block.expansions[1:])
    assert block.attentions == ("se", "none")


def test_an_operator_without_settings_gets_what_it_offers_by_default_else_all_values():
    for name, operator in OPERATORS.items():
        [block] = blocks_of(f"stages: [{{width: 8}}]\noperators: [{name}]")

        assert dict(block.options[0].settings) == operator.settings | getattr(operator, "defaults", {})


def test_a_stage_may_differ_from_the_rest():
    first, second = blocks_of(
        """
        stages:
          - {width: 8, operators: [dense], expansion: 0.25, attention: se}
          - {width: 8}
        operators: [identity]
        expansion: 2
        """
    )

    assert [option.operator for option in first.options] == ["dense"]
    assert (first.expansions, first.attentions) == ((0.25,), ("se",))
    assert (second.options, second.expansions, second.attentions) == ((Option("identity"),), (2,), ("none",))


@pytest.mark.parametrize("written", ["false", "[false]", "true", "[true, false]", "[false, true]"])
def test_a_stage_says_whether_kernels_may_be_shared_and_lists_the_operators_that_can(written):
    [stage] = unrolled(
        f"stages: [{{width: 8, depth: 3, share_kernels: {written}}}]\noperators: [identity, dense, max_pool]"
    ).stages

    values = {"true": (True,), "false": (False,), "[false]": (False,)}.get(written, (True, False))
    assert stage.share_kernels == values
    assert stage.shareable == (("dense",) if True in values else ())


@pytest.mark.parametrize("nothing", ["none", "~", "[none]", "null"])
def test_no_attention_may_be_written_in_several_ways(nothing):
    [block] = blocks_of(SMALLEST + f"attention: {nothing}")

    assert block.attentions == ("none",)


def test_a_list_of_kernels_is_one_value_and_a_list_of_lists_several():
    for written, expected in [("[3, 5]", ((3, 5),)), ("[[3, 5], [3, 5, 7]]", ((3, 5), (3, 5, 7)))]:
        [block] = blocks_of(f"stages: [{{width: 8}}]\noperators: [mixed: {{kernels: {written}}}]")

        assert dict(block.options[0].settings)["kernels"] == expected


def test_a_skeleton_is_read_from_a_file_and_named_after_it(tmp_path):
    path = tmp_path / "slim.yaml"
    path.write_text(SMALLEST, encoding="utf-8")

    assert read_skeleton(str(path)) == {"name": "slim", **parse_yaml(SMALLEST, "")}


@pytest.mark.parametrize(
    ("text", "value"), [("1e-2", 0.01), ("-5E3", -5000.0), ("12e", "12e"), ("'1e3'", "1e3")]
)
def test_a_power_of_ten_is_a_number_without_a_point_too(text, value):
    assert parse_yaml(f"rate: {text}", "x.yaml") == {"rate": value}


# -- what it refuses ---------------------------------------------------------------------------

STAGE = "stages: [{width: 8%s}]\noperators: [identity]"
OPERATOR = "stages: [{width: 8}]\noperators: [%s]"

REFUSED = {
    # unknown keys, with the nearest
    "key": (SMALLEST + "expantion: 2", "space.expantion", "did you mean expansion?", "Allowed: name, "),
    "stage key": (STAGE % ", wdith: 3", "space.stages[0].wdith", "did you mean width?", "Allowed: width"),
    "stem key": (SMALLEST + "stem: {kernel: 3}", "space.stem.kernel ", "did you mean kernel_size?"),
    "head key": (SMALLEST + "head: {widht: 3}", "space.head.widht", "did you mean width?"),
    "key that is a number": (SMALLEST + "1: 2", "space.1 is not known", "Allowed: name, "),
    "setting": (OPERATOR % "depthwise: {kernel: 3}", "space.operators.depthwise.kernel", "mean kernel_size?"),
    "setting of none": (OPERATOR % "identity: {kernel_size: 3}", "identity.kernel_size", "Allowed: nothing"),
    # unknown names and values, with the nearest
    "operator": (OPERATOR % "dephtwise", "space.operators", "'dephtwise'", "mean depthwise?", "max_pool"),
    "operator without a name": (OPERATOR % "''", "space.operators", "''", "Allowed: avg_pool"),
    "attention": (SMALLEST + "attention: [none, see]", "space.attention", "'see'", "did you mean se?"),
    "attention in a stage": (STAGE % ", attention: 1", "space.stages[0].attention", "1 is", ", none, "),
    "activation": (SMALLEST + "activation: reul", "'reul'", "did you mean relu?", "relu, hardswish, silu"),
    "kernel value": (OPERATOR % "depthwise: {kernel_size: [3, 4]}", "depthwise.kernel_size 4", "3, 5, 7"),
    "kernel as a float": (OPERATOR % "depthwise: {kernel_size: 3.0}", "kernel_size 3.0", "did you mean 3?"),
    "kernel as text": (OPERATOR % "depthwise: {kernel_size: '3'}", "kernel_size '3'", "did you mean 3?"),
    "dilation as a truth": (OPERATOR % "depthwise: {dilation: [true]}", "dilation True", "Allowed: 1, 2"),
    "kernels": (OPERATOR % "mixed: {kernels: [3, 4]}", "mixed.kernels [3, 4]", "did you mean [3, 5]?"),
    "kernels of one": (OPERATOR % "mixed: {kernels: 3}", "mixed.kernels 3", "Allowed: [3, 5]"),
    # bits have their place, but nothing but 32 yet
    "weight_bits": (SMALLEST + "weight_bits: [8, 32]", "space.weight_bits is 8", "only 32"),
    "activation_bits": (STAGE % ", activation_bits: 8", "space.stages[0].activation_bits is 8", "only 32"),
    # sharing needs two blocks after the first, and weights
    "sharing": (
        STAGE % ", depth: 3, share_kernels: 1",
        "share_kernels is 1",
        "true, false, or a list of both",
    ),
    "sharing twice": (STAGE % ", depth: 3, share_kernels: [true, true]", "share_kernels lists True twice"),
    "sharing of nothing": (STAGE % ", depth: 3, share_kernels: []", "share_kernels is an empty list"),
    "sharing of two": (STAGE % ", depth: [1, 2], share_kernels: true", "at most 2 deep", "3 or more"),
    "sharing without weights": (
        STAGE % ", depth: 3, share_kernels: [false, true]",
        "space.stages[0].share_kernels is true",
        "of identity none has weights that can be shared",
        "dense, depthwise, ",
    ),
    "sharing everywhere": (SMALLEST + "share_kernels: true", "space.share_kernels is not known"),
    # missing and empty
    "no stages": ("operators: [identity]", "space.stages", "at least one stage", "{width: 24"),
    "empty stages": ("stages: []\noperators: [identity]", "space.stages", "at least one stage"),
    "no width": (
        "stages: [{depth: 1}]\noperators: [identity]",
        "space.stages[0].width is missing",
        "[16, 24]",
    ),
    "no operators": ("stages: [{width: 8}]", "space.stages[0] has no operators", "give space.operators"),
    "empty operators": (OPERATOR % "", "space.operators is empty", "at least one of avg_pool, "),
    "empty widths": ("stages: [{width: []}]\noperators: [identity]", "space.stages[0].width", "empty list"),
    "empty depths": (STAGE % ", depth: []", "space.stages[0].depth", "empty list", "at least one"),
    "empty expansions": (SMALLEST + "expansion: []", "space.expansion", "empty list"),
    "empty attentions": (SMALLEST + "attention: []", "space.attention", "empty list"),
    "empty kernel sizes": (OPERATOR % "depthwise: {kernel_size: []}", "kernel_size", "empty list"),
    "empty kernels": (OPERATOR % "mixed: {kernels: []}", "mixed.kernels", "empty list"),
    # wrong numbers
    "depth 0": (STAGE % ", depth: [0, 1]", "space.stages[0].depth is 0", "at least 1"),
    "width 0": ("stages: [{width: 0}]\noperators: [identity]", "space.stages[0].width is 0", "at least 1"),
    "stride 0": (STAGE % ", stride: 0", "space.stages[0].stride is 0", "at least 1"),
    "strides": (STAGE % ", stride: [1, 2]", "space.stages[0].stride is [1, 2]", "it is one number"),
    "stem widths": (SMALLEST + "stem: {width: [8, 16]}", "space.stem.width is [8, 16]", "it is one number"),
    "even stem": (SMALLEST + "stem: {kernel_size: 4}", "space.stem.kernel_size is 4", "must be odd"),
    "head -1": (SMALLEST + "head: {width: -1}", "space.head.width is -1", "at least 0"),
    "expansion 0": (SMALLEST + "expansion: 0", "space.expansion is 0", "above 0"),
    "endless expansion": (SMALLEST + "expansion: .inf", "space.expansion is inf", "above 0"),
    "expansion of nothing": (SMALLEST + "expansion: .nan", "space.expansion is nan", "above 0"),
    "resolution 0": (SMALLEST + "resolution: 0", "space.resolution is 0", "at least 1"),
    "too many strides": (
        "stem: {stride: 2}\nstages: [{width: 8, stride: 4}, {width: 8, stride: 2}]\noperators: [identity]",
        "strides multiply to 16",
        "images of 8 pixels",
        "lower a stride or raise space.resolution",
    ),
    # wrong types
    "width as text": ("stages: [{width: wide}]\noperators: [identity]", "width is 'wide'", "an integer"),
    "width as a float": ("stages: [{width: 8.0}]\noperators: [identity]", "width is 8.0", "an integer"),
    "width as a truth": ("stages: [{width: true}]\noperators: [identity]", "width is True", "an integer"),
    "expansion as text": (SMALLEST + "expansion: two", "space.expansion is 'two'", "a number above 0"),
    "stage as a list": ("stages: [[8]]\noperators: [identity]", "space.stages[0] is [8]", "a mapping"),
    "stages as a number": (
        "stages: 3\noperators: [identity]",
        "space.stages",
        "a list of at least one stage",
    ),
    "stem as a number": (SMALLEST + "stem: 3", "space.stem is 3", "a mapping"),
    "head as a number": (SMALLEST + "head: 3", "space.head is 3", "a mapping"),
    "operator as a list": (OPERATOR % "[dense]", "['dense'] is not an operator", "write its name"),
    "two operators in one": (OPERATOR % "{dense: {}, mixed: {}}", "is not an operator", "write its name"),
    "settings as a number": (OPERATOR % "dense: 3", "space.operators.dense is 3", "a mapping"),
    # twice
    "width twice": (
        "stages: [{width: [8, 8]}]\noperators: [identity]",
        "width lists 8 twice",
        "list it once",
    ),
    "operator twice": (OPERATOR % "dense, dense", "space.operators: dense is listed twice", "list it once"),
    "attention twice": (SMALLEST + "attention: [se, se]", "space.attention lists 'se' twice"),
    "key twice": (SMALLEST + "operators: [dense]", "x.yaml: line 5", "'operators' is written twice"),
    "key twice below": (STAGE % ", width: 9", "x.yaml: line 1", "'width' is written twice", "keep one"),
    # not a skeleton
    "broken YAML": ("stages: [", "x.yaml: not valid YAML at line"),
    "key that is a list": ("? [1, 2]\n: 3", "x.yaml: line 1", "[1, 2] is not a name"),
    "code in YAML": ("a: !!python/object/apply:os.getcwd []", "x.yaml: not valid YAML at line 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_named_in_one_line(what):
    text, *parts = REFUSED[what]

    with pytest.raises(ValueError) as refused:
        unrolled(text)

    message = str(refused.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


def test_a_misspelt_preset_is_named_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"\Athe space 'digit' is not known; did you mean digits\? Allowed: "
    ):
        read_skeleton("digit")


def test_a_missing_file_is_named_with_the_presets(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no skeleton at .*none\.yaml; presets are .*tiny"):
        read_skeleton(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", r"x\.yaml: not a text file in UTF-8"),
        (b"", r"x\.yaml is None; it must be a mapping"),
        (b"- a", r"x\.yaml is \['a'\]; it must be a mapping"),
        (b"a: 1\na: 2", r"x\.yaml: line 2: the key 'a' is written twice"),
    ],
)
def test_a_file_that_is_no_skeleton_is_named(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_skeleton(str(path))
