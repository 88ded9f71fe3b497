"""The searchers: which architectures are evaluated next. One file each, behind ask and tell."""

from __future__ import annotations

from nas.searchers.age_moea import AGEMOEA
from nas.searchers.gp import GP
from nas.searchers.linas import LINAS
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from nas.searchers.random import Random
from nas.searchers.regularised_evolution import RegularisedEvolution
from nas.searchers.tpe import TPE

SEARCHERS = {
    "linas": LINAS,
    "nsga2": NSGA2,
    "nsga3": NSGA3,
    "age_moea": AGEMOEA,
    "regularised_evolution": RegularisedEvolution,
    "tpe": TPE,
    "gp": GP,
    "random": Random,
}
