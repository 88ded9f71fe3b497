"""A space of plain categorical decisions: names, each with the options it has.

    space = CategoricalSpace({"kernel": [3, 5, 7], "activation": ["relu", "silu"], "skip": [False, True]})

It says nothing of networks: what an architecture of it means is the business of whoever evaluates it. To every
search algorithm it is a space like the others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search_spaces.parts import short, tuples
from search_spaces.space import SearchSpace
from search_spaces.strict import check_keys
from search_spaces.vectors import Decision


@dataclass(frozen=True, repr=False)
class CategoricalArchitecture(Mapping[str, Any]):
    """One option per decision, read like a dictionary: `architecture["kernel"]`.

    Options are kept as JSON, by which they are equal or not: 1, 1.0 and True are three options. What is
    read is a new object each time.
    """

    choices: tuple[tuple[str, str], ...]  # name and option as JSON, in the order of the space

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self.choices)

    def __str__(self) -> str:
        return ", ".join(f"{name} {short(tuples(option))}" for name, option in self.items())

    def __repr__(self) -> str:
        return f"CategoricalArchitecture({dict(self)})"

    @cached_property
    def _texts(self) -> dict[str, str]:
        return dict(self.choices)

    @cached_property
    def key(self) -> str:
        """A stable name: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        return json.dumps({"topology": "categorical", "choices": dict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CategoricalArchitecture:
        choices = json.loads(text)["choices"]
        return cls(tuple((name, _json(name, option)) for name, option in choices.items()))


class CategoricalSpace:
    """
    Args:
        decisions: the options of each decision, two or more where there is something to decide. An option is
            anything that JSON can hold: a number, text, true or false, None, a list or mapping of these.
        name: what runs over it are called by default.

    Raises:
        ValueError: no decision, a decision without options, the same option twice, or one that JSON cannot hold.
    """

    def __init__(self, decisions: Mapping[str, Sequence[Any]], name: str = "own"):
        if not isinstance(decisions, Mapping) or not decisions:
            raise ValueError(
                f"the decisions of a space are {decisions!r}; write a mapping such as "
                '{"kernel": [3, 5, 7], "width": [16, 32]}'
            )
        self.name = name
        self._offered = {each: _offered(each, options) for each, options in decisions.items()}

    def __repr__(self) -> str:
        return f"CategoricalSpace({self._options}, name={self.name!r})"

    # what a space does whatever its topology
    check = SearchSpace.check
    sample = SearchSpace.sample
    mutate = SearchSpace.mutate
    features = SearchSpace.features
    crossover = SearchSpace.crossover
    _filled = SearchSpace._filled

    # -- what there is -------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """How many architectures the space holds, exactly."""
        return math.prod(map(len, self._offered.values()))

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Where there is something to decide: those with two options or more."""
        several = {name: options for name, options in self._options.items() if len(options) > 1}
        return tuple(Decision(name, tuple(map(tuples, options))) for name, options in several.items())

    @property
    def ends(self) -> tuple[CategoricalArchitecture, CategoricalArchitecture]:
        """The least and the most of every decision among numbers; of others, such as names, the first option."""

        def end(pick: Callable) -> CategoricalArchitecture:
            return self.architecture({name: pick(options) for name, options in self._options.items()})

        return end(lambda options: _extreme(min, options)), end(lambda options: _extreme(max, options))

    def architecture(self, choices: Mapping[str, Any]) -> CategoricalArchitecture:
        """The architecture of plain choices, `{"kernel": 3, ...}`, in any order.

        Raises:
            ValueError: it does not decide what this space decides, or an option is none of those offered.
        """
        check_keys("", choices, self._offered)
        given = tuple((name, _json(name, choices[name])) for name in self._offered if name in choices)
        architecture = CategoricalArchitecture(given)
        self.check(architecture)
        return architecture

    @cached_property
    def _options(self) -> dict[str, list[Any]]:
        return {name: [json.loads(text) for text in texts] for name, texts in self._offered.items()}

    # -- vectors -------------------------------------------------------------------------------

    def encode(self, architecture: CategoricalArchitecture) -> tuple[int, ...]:
        """The vector of an architecture, as long as `decisions`: 1 for the first option of each.

        Raises:
            ValueError: it is not an architecture of this space; the message names the decision.
        """
        texts = dict(architecture.choices)
        if list(texts) != list(self._offered):
            raise ValueError(
                f"the architecture decides {', '.join(texts) or 'nothing'}; the space {self.name} decides "
                f"{', '.join(self._offered)}, in this order"
            )
        for name, numbers in self._offered.items():
            if texts[name] not in numbers:
                raise ValueError(
                    f"{name} is {texts[name]}; the space {self.name} offers {', '.join(numbers)}"
                )
        return tuple(self._offered[name][texts[name]] for name in self._places)

    def decode(self, vector: Sequence[int]) -> CategoricalArchitecture:
        """The architecture of a vector. Total: 0 counts as 1.

        Raises:
            ValueError: wrong length, or a number above the count of the decision's options.
        """
        if len(vector) != len(self._places):
            raise ValueError(f"a vector of {self.name} has {len(self._places)} places, not {len(vector)}")
        numbers = dict.fromkeys(self._offered, 1) | dict(zip(self._places, map(int, vector), strict=True))
        for name, number in numbers.items():
            if not 0 <= number <= len(self._offered[name]):
                raise ValueError(f"{name} has options 1 to {len(self._offered[name])}, not {number}")
        return CategoricalArchitecture(
            tuple((name, list(self._offered[name])[max(number - 1, 0)]) for name, number in numbers.items())
        )

    def canonical(self, vectors: np.ndarray) -> np.ndarray:
        """`encode(decode(vector))` of many vectors at once, (n, decisions)."""
        return np.maximum(np.asarray(vectors, np.int64), 1)

    @cached_property
    def _places(self) -> list[str]:
        """The decisions that have a place in the vector."""
        return [decision.name for decision in self.decisions]

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Not sorted: the order of the decisions is that of the vectors."""
        return json.dumps({"topology": "categorical", "name": self.name, "decisions": self._options})

    @classmethod
    def from_json(cls, text: str) -> CategoricalSpace:
        fields = json.loads(text)
        return cls(fields["decisions"], fields["name"])


def _extreme(pick: Callable, options: Sequence[Any]) -> Any:
    return pick(options) if all(isinstance(one, int | float) for one in options) else options[0]


def _offered(name: Any, options: Any) -> dict[str, int]:
    """The options of a decision as JSON, numbered from 1."""
    if not isinstance(name, str):
        raise ValueError(f"a decision is called {name!r}; its name must be text")
    if isinstance(options, np.ndarray) and options.ndim == 1:
        options = options.tolist()
    if not isinstance(options, Sequence) or isinstance(options, str | bytes) or not options:
        shown = " ".join(repr(options).split())
        raise ValueError(f"{name} has the options {shown}; write a list of one or more, such as [3, 5, 7]")
    offered: dict[str, int] = {}
    for option in options:
        text = _json(name, option)
        if text in offered:
            raise ValueError(f"{name} offers {text} twice; offer it once")
        offered[text] = len(offered) + 1
    return offered


def _json(name: str, option: Any) -> str:
    """The one spelling of an option.

    Raises:
        ValueError: JSON cannot hold it as it is.
    """
    try:
        return json.dumps(_plain(option), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            f"{name} offers {option!r}, which JSON cannot hold; offer a number, text, true or false, None, or a list "
            "or mapping of these, such as the name of what you mean"
        ) from None


def _plain(option: Any) -> Any:
    """What numpy and tuples hold, as JSON does."""
    if isinstance(option, np.generic):
        return _plain(option.item())
    if isinstance(option, list | tuple):
        return [_plain(one) for one in option]
    if isinstance(option, dict) and all(isinstance(key, str) for key in option):
        return {key: _plain(one) for key, one in option.items()}
    if option is None or isinstance(option, bool | int | float | str):
        return option
    raise TypeError
