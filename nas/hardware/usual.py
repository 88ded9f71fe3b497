"""How long the reference network usually takes on this machine, by which a moment that is odd as a whole is seen.

Before and after a measurement agree in such a moment, so only other moments tell. They are kept in the user's cache
folder, for each device with its threads and precision, and begin anew with another processor or version. The median of
them counts: the fastest would be a lucky one. A machine that has become slower for good is the usual one in time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

import numpy as np

from nas.data.files import cache
from nas.json_file import read_json, write_json

APART = 10  # seconds between moments that are kept, so that they are not all of one search
KEPT = 1000

logger = logging.getLogger(__name__)


def usual_ms(of: Mapping[str, Any], reference_ms: float) -> float:
    """Milliseconds of the median of all moments known, this one among them.

    Args:
        of: the device, its threads and precision, versions and processor.

    Raises:
        ValueError: the file is damaged.
    """
    path = file_of(of)
    moments, here = _known(path, of), [time(), reference_ms]
    if not moments or not 0 <= here[0] - moments[-1][0] < APART:
        moments = [*moments, here][-KEPT:]
        try:
            write_json(path, {"of": dict(of), "moments": moments})
        except OSError as error:
            logger.info("how fast this machine was cannot be kept: %s", error)
    return float(np.median([ms for _, ms in moments]))


def file_of(of: Mapping[str, Any]) -> Path:
    """Where the moments of a device with its threads and precision are kept."""
    return cache("moments") / f"{of['device']}-{of['precision']}-{of['threads']}.json"


def _known(path: Path, of: Mapping[str, Any]) -> list[list[float]]:
    """Of each moment when it was, in seconds since 1970, and what the reference network took."""
    if not path.is_file():
        return []
    way_out = "remove it"
    stored = read_json(path, way_out)
    try:
        return [[float(at), float(ms)] for at, ms in stored["moments"]] if stored["of"] == dict(of) else []
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {way_out}") from None
