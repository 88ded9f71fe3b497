"""The samplers: which architectures each training step trains. One file each."""

from __future__ import annotations

from supernets.samplers.sandwich import Sandwich
from supernets.samplers.shift import Shift
from supernets.samplers.uniform import Uniform

SAMPLERS = {"uniform": Uniform, "sandwich": Sandwich, "shift": Shift}
