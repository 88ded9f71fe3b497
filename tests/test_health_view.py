"""The health of a supernet is told in one sentence with numbers, then in tables, and as JSON without NaN."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nas.health_view import health_as_json, print_health, sampled_table, verdict
from nas.profile_view import quantity
from nas.rank_statistics import Estimate
from nas.ranking import health_of
from tests.trials import SAMPLED, noisy, trials_of


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def row(out: list[str], name: str) -> list[str]:
    """The cells of a row after its name."""
    return next(line for line in out if line.startswith(name)).removeprefix(name).split()


# -- the sentence ------------------------------------------------------------------------------


def knowing_bins_only():
    """Better than MACs, which are in a random order of the bins, and no better than chance within them."""
    random = np.random.default_rng(0)
    step, (chance, noise) = np.repeat([3.0, 0, 5, 1, 4, 2], 8), random.normal(size=(2, 48)) / 10
    return trials_of(60 + step + chance, 70 + step + noise)


def knowing_within_only():
    """MACs tell the bins, inherited accuracy tells who is better within them too."""
    within = np.random.default_rng(0).normal(size=48)
    quality = np.repeat(np.arange(6.0), 8) * 10 + within
    return trials_of(60 + quality + 0.1 * np.sin(np.arange(48)), 70 + quality)


def worse_than_macs():
    random = np.random.default_rng(0)
    quality = np.arange(48.0)
    return trials_of(60 + quality / 2 + 14 * random.normal(size=48), 70 + quality / 3)


@pytest.mark.parametrize(
    ("trials", "word", "said"),
    [
        (noisy(48, noise=0.2), "Yes", "counting MACs gives"),
        (knowing_within_only(), "Yes", "within cost bins τ is 0."),
        (knowing_bins_only(), "In part", "of about the same cost may not be told apart"),
        (noisy(48, noise=0.1, of_macs=0.9), "Not shown", "the difference may be chance"),
        (worse_than_macs(), "No", "which is better"),
        (noisy(48, noise=50), "Not shown", "which chance could give as well (up to 0.20)"),
        (
            noisy(10, noise=1.5, seed=38),
            "Not shown",
            "which chance could give as well (up to 0.49)",
        ),  # τ 0.47 (0.10 to 0.76)
        (noisy(6, noise=0.2), "Too early to say", "6 architectures measured both ways; 50 make a report"),
        (trials_of([10.0] * 20, np.arange(20.0)), "Unknown", "all inherited accuracies are equal"),
        ([SAMPLED], "Too early to say", "0 architectures"),
    ],
)
def test_what_the_ranking_is_worth_is_one_sentence_with_numbers(trials, word, said):
    told = verdict(health_of(trials))

    assert told.word == word
    assert said in told.why and "\n" not in str(told)


def test_a_yes_holds_the_tau_the_baseline_the_difference_and_the_ceiling():
    health = health_of(noisy(48, noise=0.2))
    taus = health.taus

    said = str(verdict(health))

    for estimate in (taus.inherited, taus.over_macs, taus.within):
        assert f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})" in said
    assert f"counting MACs gives {taus.macs.value:.2f}" in said
    assert said.endswith(f"two seeds alone agree with τ {taus.seeds.value:.2f}")


def biased(number: int = 48):
    """Inherited accuracy overestimates networks of few MACs, as trainings alone can tell."""
    macs = np.random.default_rng(1).uniform(1e6, 8e6, number)
    quality = np.random.default_rng(2).normal(size=number)
    return trials_of(75 + quality, 80 + quality + 3 * np.log(macs / 4e6), macs)


def test_what_trainings_alone_correct_is_the_advice_and_has_its_rows(capsys):
    health = health_of(biased())
    better = health.corrected

    print_health(health)

    out = lines(capsys)
    assert better.others == 38 and better.over_inherited.above_zero and better.over_macs.above_zero
    assert "search for predicted_accuracy in place of accuracy, which these trainings correct" in out[1]
    assert f"it ranks with τ {better.tau.value:.2f}" in out[1]
    assert "MACs" not in verdict(health_of(noisy(48, noise=0.2))).next
    named = {
        "corrected by 38 other trainings alone": better.tau,
        "corrected less inherited accuracy": better.over_inherited,
        "corrected less MACs": better.over_macs,
        "the same trainings without the supernet: MACs and operators": better.without,
        "corrected less those without the supernet": better.over_without,
    }
    for name, one in named.items():
        assert row(out, name) == [f"{one.value:.2f}", f"{one.low:.2f}", "to", f"{one.high:.2f}"], name


def test_without_a_second_seed_the_ceiling_is_not_made_up():
    said = str(verdict(health_of(noisy(48, noise=0.2, seeds=1))))

    assert said.endswith("how well two seeds alone agree is not known yet")


def test_without_macs_nothing_tells_what_a_tau_is_worth():
    trials = [
        replace(one, values={key: value for key, value in one.values.items() if key != "macs"})
        for one in noisy(48, noise=0.2)
    ]

    assert verdict(health_of(trials)).word == "Unknown"


# -- the report --------------------------------------------------------------------------------


def test_first_come_the_answer_what_to_do_and_what_so_few_can_tell(capsys):
    health = health_of([SAMPLED, *noisy(24, noise=0.2)])

    print_health(health)

    out = lines(capsys)
    assert out[0] == f"Can its ranking be trusted? {verdict(health)}."
    assert out[1] == "What to do: search."
    assert out[2] == (
        "24 architectures, each trained alone 2 times for 5 epochs: without any relation τ would lie within "
        "±0.29 in 95 of 100 such reports; 50 or more are recommended."
    )


def test_every_tau_has_a_row_with_its_interval(capsys):
    health = health_of(noisy(48, noise=0.2))

    print_health(health)

    out, taus = lines(capsys), health.taus
    named = {
        "inherited accuracy  ": taus.inherited,
        "inherited loss": taus.loss,
        "inherited accuracy, all rounded to 0.1": taus.sparse,
        "inherited accuracy, one set of statistics for all": taus.uncalibrated,
        "baseline: MACs": taus.macs,
        "baseline: parameters": taus.parameters,
        "inherited accuracy less MACs": taus.over_macs,
        "within 6 cost bins: inherited accuracy  ": taus.within,
        "within 6 cost bins: MACs": taus.macs_within,
        "within 6 cost bins: inherited accuracy less MACs": taus.over_macs_within,
        "ceiling: one seed against another": taus.seeds,
        "inherited accuracy against one seed": taus.one_seed,
    }
    for name, one in named.items():
        assert row(out, name) == [f"{one.value:.2f}", f"{one.low:.2f}", "to", f"{one.high:.2f}"], name


def test_bins_operators_and_sampled_cost_are_tables(capsys):
    print_health(health_of([SAMPLED, *trials_of(np.arange(16.0)[::-1], 40 + np.arange(16.0))]))

    out = lines(capsys)
    assert row(out, "1.00 M to 8.00 M")[:5] == ["8", "11.50", "43.50", "-32.00", "-0.500"]
    assert "operator or setting" in "\n".join(out)
    assert row(out, "1.00 M to 2.00 M") == ["30", "75.0", "%"]


@pytest.mark.parametrize("bins", [1, 5, 7, 20])
def test_neighbouring_sampled_costs_are_told_together_where_there_are_many(bins):
    """And none is lost: the rows join, from the first edge to the last, and add up to all that was sampled."""
    values = {f"edge/{k}": 1e6 * (k + 1) for k in range(bins + 1)} | {f"count/{k}": k for k in range(bins)}

    _, rows = sampled_table(health_of([replace(SAMPLED, values=values)]))

    ranges = [row[0].split(" to ") for row in rows]
    ends = [quantity(1e6), *(high for _, high in ranges)]
    assert len(rows) <= 5
    assert ends[-1] == quantity(1e6 * (bins + 1)) and [low for low, _ in ranges] == ends[:-1]
    assert sum(int(row[1]) for row in rows) == sum(range(bins))


def test_the_top_the_gap_the_calibration_and_the_cost_are_sentences(capsys):
    accuracies = np.arange(20.0)
    trials = trials_of(accuracies, accuracies + 10)
    failed = replace(trials[0], key="f", values={}, error="RuntimeError: [x] broke")

    print_health(health_of([*trials, failed, replace(trials[0], key="w")]))

    out = lines(capsys)
    assert (
        "Of the 4 ranked best (20 %), 100 % are among the 4 that are best alone. Of the top 5, the best is number 1 "
        "of 20 alone, the worst number 5."
    ) in out
    assert "Inherited accuracy less accuracy alone: -10.00 (-10.00 to -10.00) points." in out
    assert any(
        "+5.00 (+5.00 to +5.00) points to 20 subnets: 9.50 % with, 4.50 % without" in one for one in out
    )
    assert "Cost: 20 min 0 s of training alone, 1 min 24 s of evaluation, summed over processes." in out
    assert "1 architecture not yet trained alone." in out
    said = "1 trial failed and is left out: RuntimeError: [x] broke; nas health --retry carries out again what failed."
    assert out.index(said) < out.index("")


def test_of_several_reasons_why_trials_failed_the_commonest_is_told(capsys):
    trials = noisy(10, noise=0.2)
    reasons = ["OSError: a", "RuntimeError: b", "ValueError: c", "RuntimeError: b"]
    failed = [replace(trials[0], key=str(number), error=one) for number, one in enumerate(reasons)]
    health = health_of([*trials, *failed])

    print_health(health)

    assert health.reasons == ("RuntimeError: b", "OSError: a", "ValueError: c")
    said = "4 trials failed and are left out: RuntimeError: b (and 2 other reasons); nas health --retry"
    assert any(line.startswith(said) for line in lines(capsys))


def test_better_within_bins_and_no_worse_over_all_is_a_yes_that_claims_no_more():
    """MACs tell the order of the bins without an error, inherited accuracy with a few."""
    random = np.random.default_rng(3)
    quality = np.repeat(np.arange(6.0), 8) + random.normal(size=48) / 8
    health = health_of(trials_of(60 + quality + random.normal(size=48) / 12, 70 + quality))

    said = verdict(replace(health, taus=replace(health.taus, over_macs=Estimate(-0.01, -0.05, 0.03))))

    assert (
        said.word == "Yes" and "counting MACs gives 0.8" in said.why and ", about as much; within" in said.why
    )


def test_as_json_it_is_complete_and_has_no_nan():
    health = health_of([SAMPLED, *noisy(24, noise=0.2)])

    told = json.loads(json.dumps(health_as_json(health), allow_nan=False))

    assert told["verdict"] == verdict(health)._asdict()
    assert told["taus"]["inherited"]["value"] == health.taus.inherited.value
    assert len(told["compared"]) == told["architectures"] == 24
    assert told["sampled"] == {"edges": [1e6, 2e6, 3e6], "counts": [30, 10]}
    assert {"low", "high", "count", "difference", "gap", "tau"} <= set(told["bins"][0])
    assert health_as_json(health_of([]))["taus"]["inherited"] is None
