"""How numbers of very different size are shown, and a profile as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.profile import Profile


def quantity(value: float) -> str:
    """A count as a person says it.

    >>> quantity(950), quantity(9_500), quantity(12_345), quantity(999_990), quantity(2_500_000), quantity(3e14)
    ('950', '9,500', '12.3 k', '1.00 M', '2.50 M', '3.00e+14')
    """
    if abs(value) >= 0.9995e12:  # what rounds to 1000 G is more
        return f"{value:.2e}"
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(0.9995 * unit, 1e4):
            return f"{value / unit:#.3g}".rstrip(".") + f" {suffix}"
    return f"{value:,.0f}"


def significant(value: float, digits: int = 4) -> str:
    """A number to so many digits, so that a latency says as much whether it is of microseconds or of seconds.

    >>> significant(0.014123), significant(1.2), significant(1234.5), significant(0.0), significant(0.99996)
    ('0.01412', '1.200', '1,234', '0', '1.000')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    rounded = abs(float(f"{value:.{digits - 1}e}"))  # 0.99996 counts as 1.000
    decimals = digits - 1 - math.floor(math.log10(rounded)) if rounded else 0
    return f"{value:,.{min(max(decimals, 0), 12)}f}"


def of_any_size(value: float) -> str:
    """A number of which nothing is known but its value: counts as counts, others to four digits.

    >>> of_any_size(0.25), of_any_size(-3.14159), of_any_size(12_345), of_any_size(9_500)
    ('0.25', '-3.142', '12.3 k', '9,500')
    """
    return f"{value:.4g}" if value != int(value) and abs(value) < 1e4 else quantity(value)


def print_profile(profile: Profile) -> None:
    from nas.report import console, plain_table

    out = console()
    fewest, most = profile.blocks
    out.print(f"{profile.name}: {profile.images}")
    out.print(
        f"space: {quantity(profile.size)} architectures, {profile.decisions} decisions, {fewest} to {most} blocks; "
        f"supernet of {quantity(profile.supernet_parameters)} parameters, {profile.steps} training steps"
    )
    if len(profile.operators) > 1:
        turns = ", ".join(f"{name} {100 * share:.0f} %" for name, share in profile.operators.items())
        out.print(
            f"operators take turns in a block: {turns} of the steps; whether inherited accuracies still rank, "
            "`nas health` tells",
            soft_wrap=True,
        )
    table = plain_table()
    for column in ("cost of one architecture", "least", "median", "most"):
        table.add_column(column, justify="left" if column.startswith("cost") else "right")
    units = {
        "macs": f"MACs of one {profile.noun}",
        "parameters": "parameters",
        "bytes": "bytes, weights as stored",
    }
    for cost, values in profile.costs.items():
        table.add_row(units[cost], *(quantity(values[one]) for one in ("min", "median", "max")))
    out.print(table)
    for key, share in profile.shares.items():
        out.print(f"constraint on {key}: {_kept(share)}")
    if len(profile.shares) > 1:
        out.print(f"those constraints together: {_kept(profile.joint)}")
    for key in profile.measured_later:
        out.print(f"constraint on {key}: only measuring can tell; the search does")


def _kept(share: float) -> str:
    """Whether a limit can be met, as far as drawing tells."""
    if share:
        return f"can be met; {100 * share:.3g} % of random architectures keep it"
    return "none of the architectures drawn keeps it; the search may find none either"
