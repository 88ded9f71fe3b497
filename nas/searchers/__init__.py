"""The searchers: which architectures are evaluated next. One file each, behind ask and tell."""

from __future__ import annotations

from nas.searchers.nsga2 import NSGA2
from nas.searchers.random import Random

SEARCHERS = {"nsga2": NSGA2, "random": Random}
