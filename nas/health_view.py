"""The health of a supernet in words, as tables and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from nas.health_table import Source
from nas.profile_view import quantity
from nas.progress import duration
from nas.rank_statistics import Estimate
from nas.ranking import TOP, TOP_SHARE, Bin, Health

FEWEST = 10  # architectures, below which there is no verdict
ENOUGH = 50
CHANCE = 1.96  # standard errors
SAMPLED_ROWS = 5  # at most, of the costs that were sampled
OTHERWISE = "train the supernet longer, with another sampler or of a smaller space"


class Verdict(NamedTuple):
    """What a supernet's ranking may be used for, in a word, the numbers that say so, and what to do now."""

    word: str
    why: str
    next: str

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


def verdict(health: Health) -> Verdict:
    """Whether the inherited accuracies rank better than chance, and better than counting MACs does.

    Over all architectures or within the cost bins; each by the 95 % interval of the difference. Where the trainings
    alone correct them for the better, or else the label cosine ranks better, what to do is to search by that.
    """
    said, better = _judged(health), _corrected(health) or _by_cosine(health)
    if better is None:
        return said
    return said._replace(next=f"{better}; or {said.next}" if said.word != "Yes" else better)


def _corrected(health: Health) -> str | None:
    """To search by what the trainings alone correct, where that ranks better than accuracies and MACs."""
    better = health.corrected
    if health.table is not None or better is None or not better.over_inherited.above_zero:
        return None
    if better.over_macs is None or not better.over_macs.above_zero:
        return None
    return (
        "search for predicted_accuracy in place of accuracy, which these trainings correct: it ranks with τ "
        f"{with_interval(better.tau)}"
    )


def _by_cosine(health: Health) -> str | None:
    """To search by the label cosine, where it ranks better than accuracies and is not shown to rank worse than MACs."""
    taus = health.taus
    if taus.cosine_over_inherited is None or not taus.cosine_over_inherited.above_zero:
        return None
    if taus.cosine_over_macs is not None and (
        taus.cosine_over_macs.is_zero_outside and taus.cosine_over_macs.value < 0
    ):
        return None
    return f"search for label_cosine in place of accuracy: it ranks with τ {with_interval(taus.label_cosine)}"


def _judged(health: Health) -> Verdict:
    """What inherited accuracies are worth as they are."""
    taus, n = health.taus, health.architectures
    if n < FEWEST:
        why = f"{_counted(n)} measured both ways; {ENOUGH} make a report"
        return Verdict("Too early to say", why, _more(health))
    if taus.inherited is None:
        why = f"of {n} architectures, all inherited accuracies are equal, or all that they are compared with"
        return Verdict(
            "Unknown", why, f"look at the accuracies, which nas health --json lists; then {OTHERWISE}"
        )
    ranked = f"inherited accuracy ranks {n} architectures with τ {with_interval(taus.inherited)}"
    if taus.over_macs is not None:
        against = f"{ranked}; counting MACs gives {taus.macs.value:.2f}"
        if taus.over_macs.is_zero_outside and taus.over_macs.value < 0:
            return Verdict("No", f"{against}, which is better{_ceiling(health)}", OTHERWISE)
    if not taus.inherited.above_zero or taus.inherited.value < CHANCE * health.null_error:
        why = f"{ranked}, which chance could give as well (up to {_chance(health)})"
        return Verdict("Not shown", why, _more(health))
    if taus.over_macs is None:
        why = f"{ranked}, but MACs do not rank them, so nothing tells what that is worth"
        return Verdict("Unknown", why, "compare with the τ of another supernet of this space")
    return _beside_macs(health, against, _ceiling(health))


def _beside_macs(health: Health, against: str, ceiling: str) -> Verdict:
    """Of a ranking that is better than chance, and not worse than MACs."""
    taus = health.taus
    inside, over_inside = taus.within, taus.over_macs_within
    within = "" if inside is None else f"; within cost bins τ is {with_interval(inside)}"
    if taus.over_macs.above_zero:
        better = f"{against}, so it is better by {with_interval(taus.over_macs)}{within}"
        if inside is not None and not inside.above_zero:
            why = f"{better}, so networks of about the same cost may not be told apart{ceiling}"
            return Verdict("In part", why, "search; train the last few of the front alone before you choose")
        return Verdict("Yes", f"{better}{ceiling}", "search")
    if over_inside is not None and over_inside.above_zero:
        macs = f", where MACs give {taus.macs_within.value:.2f}"
        return Verdict("Yes", f"{against}, about as much{within}{macs}{ceiling}", "search")
    why = f"{against}, and the difference may be chance{within}{ceiling}"
    return Verdict("Not shown", why, _more(health))


def _more(health: Health) -> str:
    """What helps where too little is shown."""
    if health.architectures >= ENOUGH:
        return OTHERWISE
    if health.table is not None and health.table.architectures <= health.architectures:
        return "a table of more architectures"
    return f"--subnets {ENOUGH} or more, which keeps what was measured; then {OTHERWISE}"


def _ceiling(health: Health) -> str:
    if health.taus.seeds is not None:
        return f"; two {_trainings(health)} agree with τ {health.taus.seeds.value:.2f}"
    if health.table is not None:
        return "; how well two trainings agree the table does not tell"
    return "; how well two seeds alone agree is not known yet"


def _trainings(health: Health) -> str:
    return "seeds alone" if health.table is None else "trainings in the table"


def print_health(health: Health) -> None:
    """What a tired person asks first, then every number with its interval."""
    from nas.report import console, plain_table

    out = console()
    said = verdict(health)
    out.print(f"Can its ranking be trusted? {said}.", soft_wrap=True)
    out.print(f"What to do: {said.next}.", soft_wrap=True)
    for line in remarks(health):
        out.print(line, soft_wrap=True)
    for heading, rows in tables(health):
        if rows:
            out.print()
            table = plain_table()
            for number, name in enumerate(heading):
                table.add_column(name, justify="right" if number else "left", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            out.print(table)


def remarks(health: Health) -> Iterator[str]:
    """What must be known beside the tables, one sentence each."""
    n, own = health.architectures, health.table is None
    if health.null_error is not None:
        few = "" if n >= ENOUGH else f"; {ENOUGH} or more are recommended"
        chance = f"without any relation τ would lie within ±{_chance(health)} in 95 of 100 such reports"
        yield f"{_compared(health)}: {chance}{few}."
    if not own:
        yield from _of_table(health.table)
    if health.top is not None:
        top, where = health.top, "alone" if own else "in the table"
        yield (
            f"Of the {top.size} ranked best ({100 * TOP_SHARE:.0f} %), {100 * top.precision:.0f} % are among the "
            f"{top.size} that are best {where}. Of the top {TOP}, the best is number {top.best_rank:g} of {n} {where}, "
            f"the worst number {top.worst_rank:g}."
        )
    if health.spearman is not None:
        one = health.spearman
        macs = "" if one.macs is None else f"; of MACs {one.macs:.2f}"
        yield f"Spearman's ρ, for comparison with papers that give it: of inherited accuracy {one.inherited:.2f}{macs}."
    if health.gap is not None:
        yield f"Inherited accuracy less accuracy alone: {with_interval(health.gap, '+.2f')} points."
    if health.calibration is not None:
        one = health.calibration
        yield (
            f"Batch-norm statistics of their own are worth {with_interval(one.gain, '+.2f')} points to {one.count} "
            f"subnets: {one.inherited:.2f} % with, {one.uncalibrated:.2f} % without."
        )
    if health.seconds_alone or health.seconds_inherited:
        alone = f"{duration(health.seconds_alone)} of training alone, " if own else ""
        yield f"Cost: {alone}{duration(health.seconds_inherited)} of evaluation, summed over processes."
    if health.waiting:
        yield f"{_counted(health.waiting)} not yet trained alone."
    if health.failed:
        several = (
            f"{count(health.failed, 'trial')} failed and {'is' if health.failed == 1 else 'are'} left out"
        )
        others = len(health.reasons) - 1
        more = f" (and {count(others, 'other reason')})" if others else ""
        yield f"{several}: {health.reasons[0][:200]}{more}; nas health --retry carries out again what failed."


def _compared(health: Health) -> str:
    """What was compared with what, and how much of it."""
    n, alike = health.architectures, all(one.seeds == health.seeds for one in health.compared)
    times = "once" if health.seeds == 1 else f"{'' if alike else 'up to '}{health.seeds} times"
    if health.table is not None:
        known = health.table.architectures
        some = f"All {_counted(n)}" if n == known else f"{n} of the {_counted(known)}"
        return f"{some} of {health.table.file}, each trained {times}"
    length = "" if health.epochs is None else f" for {count(health.epochs, 'epoch')}"
    return f"{_counted(n)}, each trained alone {times}{length}"


def _of_table(table: Source) -> Iterator[str]:
    """How the table was read, as far as that may surprise."""
    if table.lower_is_better:
        yield f"In {', '.join(table.accuracy)} lower is better: its values stand here with a minus."
    left_out = []
    if table.strangers:
        said = "is no architecture" if table.strangers == 1 else "are no architectures"
        left_out.append(
            f"{count(table.strangers, 'row')} of {table.rows:,} {said} of the space ({table.why[:200]})"
        )
    if table.unmeasured:
        has = "has" if table.unmeasured == 1 else "have"
        left_out.append(f"{count(table.unmeasured, 'row')} {has} no number in {', '.join(table.accuracy)}")
    if left_out:
        yield f"Left out: {'; '.join(left_out)}."


# -- tables ------------------------------------------------------------------------------------


def tables(health: Health) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Headings and rows: taus, cost bins, operators, sampled cost; without rows where nothing is known."""
    return [tau_table(health), bin_table(health), usage_table(health), sampled_table(health)]


def tau_table(health: Health) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    taus, seeds = health.taus, "seed" if health.table is None else "training in the table"
    named = [
        ("inherited accuracy", taus.inherited),
        ("inherited loss", taus.loss),
        ("inherited label cosine", taus.label_cosine),
        ("inherited label cosine less accuracy", taus.cosine_over_inherited),
        ("inherited label cosine less MACs", taus.cosine_over_macs),
        ("inherited accuracy, all rounded to 0.1", taus.sparse),
        ("inherited accuracy, one set of statistics for all", taus.uncalibrated),
        ("baseline: MACs", taus.macs),
        ("baseline: parameters", taus.parameters),
        ("inherited accuracy less MACs", taus.over_macs),
        (f"within {len(health.bins)} cost bins: inherited accuracy", taus.within),
        (f"within {len(health.bins)} cost bins: MACs", taus.macs_within),
        (f"within {len(health.bins)} cost bins: inherited accuracy less MACs", taus.over_macs_within),
        (f"ceiling: one {seeds} against another", taus.seeds),
        (f"inherited accuracy against one {seeds}", taus.one_seed if taus.seeds else None),
    ]
    if (better := health.corrected) is not None:
        alone = "trainings alone" if health.table is None else "rows of the table"
        named += [
            (f"corrected by {better.others} other {alone}", better.tau),
            ("corrected less inherited accuracy", better.over_inherited),
            ("corrected less MACs", better.over_macs),
            ("the same trainings without the supernet: MACs and operators", better.without),
            ("corrected less those without the supernet", better.over_without),
        ]
    rows = [(name, f"{one.value:.2f}", interval(one)) for name, one in named if one is not None]
    return ("ranking", "τ", "95 % interval"), rows


def bin_table(health: Health) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    gap, alone = (("gap",), "alone (%)") if health.table is None else ((), "table")
    difference = ("rank difference", "95 % interval", "τ")
    heading = ("MACs", "architectures", "inherited (%)", alone, *gap, *difference)
    rows = [
        (
            bin_name(one),
            str(one.count),
            f"{one.inherited:.2f}",
            f"{one.alone:.2f}" if one.gap else f"{one.alone:.4g}",
            *((f"{one.gap.value:+.2f}",) if one.gap else ()),
            f"{one.difference.value:+.3f}",
            interval(one.difference, "+.3f"),
            "-" if one.tau is None else f"{one.tau:.2f}",
        )
        for one in health.bins
    ]
    return heading, rows if len(rows) > 1 else []  # all together are no bin


def usage_table(health: Health) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    heading = ("operator or setting", "architectures", "rank difference", "95 % interval", "")
    rows = [
        (
            one.name,
            str(one.count),
            f"{one.difference.value:+.3f}",
            interval(one.difference, "+.3f"),
            judged(one.difference),
        )
        for one in health.usages
    ]
    return heading, rows


def sampled_table(health: Health) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Neighbours together where there are many; `nas health --json` and the dashboard have each by itself."""
    heading = ("MACs", "sampled in training", "share")
    if health.sampled is None:
        return heading, []
    edges, counts = health.sampled.edges, health.sampled.counts
    total, together = max(sum(counts), 1), -(-len(counts) // SAMPLED_ROWS)
    rows = []
    for first in range(0, len(counts), together):
        several = sum(counts[first : first + together])
        low, high = edges[first], edges[min(first + together, len(counts))]
        rows.append(
            (f"{quantity(low)} to {quantity(high)}", f"{several:,}", f"{100 * several / total:.1f} %")
        )
    return heading, rows


def health_as_json(health: Health) -> dict[str, Any]:
    """Everything that is known, with the verdict; what is not known is null."""
    return {"verdict": verdict(health)._asdict(), **asdict(health)}


# -- words -------------------------------------------------------------------------------------


def bin_name(one: Bin) -> str:
    return f"{quantity(one.low)} to {quantity(one.high)}" if one.low < one.high else quantity(one.low)


def columns(table: Source) -> str:
    """What was read of a table, in words: `seed777, seed888 of nasbench201.csv`."""
    minus = ", with a minus" if table.lower_is_better else ""
    return f"{', '.join(table.accuracy)} of {Path(table.file).name}{minus}"


def judged(difference: Estimate) -> str:
    """A bias that its interval shows, in a word."""
    if not difference.is_zero_outside:
        return ""
    return "underestimated" if difference.value > 0 else "overestimated"


def interval(one: Estimate, digits: str = ".2f") -> str:
    return "-" if one.low is None else f"{one.low:{digits}} to {one.high:{digits}}"


def with_interval(one: Estimate, digits: str = ".2f") -> str:
    return f"{one.value:{digits}}" + ("" if one.low is None else f" ({interval(one, digits)})")


def _chance(health: Health) -> str:
    return f"{CHANCE * health.null_error:.2f}"


def count(several: float, one: str) -> str:
    """`1 training`, `2 trainings`."""
    return f"{several:,g} {one if several == 1 else one + 's'}"


def _counted(several: int) -> str:
    return count(several, "architecture")
