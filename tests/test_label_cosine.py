"""The label cosine is what its docstring says, the same everywhere it is told, and in the health report where it is
known of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.evaluation import evaluate, label_cosines, prepare
from nas.health_view import print_health, tau_table, verdict
from nas.objectives import OBJECTIVES
from nas.ranking import health_of
from nas.storage.store import Store
from nas.trials import Request, carry_out, prepare_trials
from tests.trials import noisy, trials_of

LABELS = torch.tensor([0, 3, 9, 3])


def test_it_is_the_cosine_between_logits_and_label_both_less_their_mean():
    logits, label = torch.randn(4, 10, generator=torch.manual_seed(0)), F.one_hot(LABELS, 10).float()

    expected = F.cosine_similarity(logits - logits.mean(1, keepdim=True), label - 0.1)

    torch.testing.assert_close(label_cosines(logits, LABELS), expected)


def test_no_scale_and_no_offset_of_the_logits_changes_it():
    logits = torch.randn(4, 10, generator=torch.manual_seed(0))

    torch.testing.assert_close(label_cosines(7 * logits - 3, LABELS), label_cosines(logits, LABELS))


def test_it_is_one_where_the_label_stands_out_and_nothing_where_all_logits_are_equal():
    sure = F.one_hot(LABELS, 10).float()

    torch.testing.assert_close(label_cosines(sure, LABELS), torch.ones(4))
    torch.testing.assert_close(label_cosines(-sure, LABELS), -torch.ones(4))
    assert label_cosines(torch.full((4, 10), 2.5), LABELS).tolist() == [0] * 4


def test_of_two_classes_it_tells_who_is_right_and_no_more():
    found = label_cosines(torch.tensor([[0.1, 0.0], [0.0, 5.0]]), torch.tensor([0, 0]))

    torch.testing.assert_close(found, torch.tensor([1.0, -1.0]))


def test_an_objective_and_a_trial_tell_the_same(tiny_run):
    with Store(tiny_run.store_url, create=False) as store:
        run = store.run(tiny_run.name)
    bench = prepare(run.experiment, Path(run.folder) / "supernet.safetensors")
    trials = prepare_trials(run.experiment, run.space, run.folder)

    for architecture in bench.space.ends:
        candidate = evaluate(bench, architecture, [OBJECTIVES["label_cosine"]])
        trial = carry_out(trials, Request(architecture, "inherited"))

        assert candidate.values["label_cosine"] == trial.values["label_cosine"]
        assert -100 <= trial.values["label_cosine"] <= 100


# -- the health report -------------------------------------------------------------------------


def with_cosines(trials, cosines):
    """Trials that tell the label cosine as well, by the architecture."""
    return [replace(one, values=one.values | {"label_cosine": float(cosines[one.key])}) for one in trials]


def better_than_accuracy(number=48):
    """A supernet that favours networks of few MACs, and label cosines that do not; and these."""
    macs = np.random.default_rng(1).uniform(1e6, 8e6, number)
    random = np.random.default_rng(2)
    quality, noise = random.normal(size=(2, number))
    trials = trials_of(75 + noise, 80 + quality, macs)
    keys = [one.key for one in trials if one.kind == "inherited"]
    return trials, dict(zip(keys, 60 + quality + 0.3 * noise, strict=True))


def test_where_it_ranks_better_than_accuracy_the_advice_is_to_search_by_it(capsys):
    trials, cosines = better_than_accuracy()
    health = health_of(with_cosines(trials, cosines))

    print_health(health)

    found, advice = health.taus.label_cosine, capsys.readouterr().out.splitlines()[1]
    assert health.taus.cosine_over_inherited.above_zero and found.value > health.taus.inherited.value
    assert "search for label_cosine in place of accuracy" in advice
    assert f"τ {found.value:.2f} ({found.low:.2f} to {found.high:.2f})" in advice
    rows = {name: value for name, value, _ in tau_table(health)[1]}
    assert rows["inherited label cosine"] == f"{found.value:.2f}"
    assert rows["inherited label cosine less MACs"] == f"{health.taus.cosine_over_macs.value:.2f}"


@pytest.mark.parametrize("known", [0, 47])
def test_where_it_is_not_known_of_all_nothing_is_said_of_it(known):
    trials, cosines = better_than_accuracy()
    some = set(list(cosines)[:known])
    told = [one if one.key not in some else with_cosines([one], cosines)[0] for one in trials]

    health = health_of(told)

    assert health.taus.label_cosine is None and health.taus.cosine_over_macs is None
    assert "label_cosine" not in verdict(health).next
    assert all("cosine" not in name for name, *_ in tau_table(health)[1])


def test_one_that_ranks_as_accuracy_does_changes_no_advice():
    trials = noisy(48, noise=0.2)
    same = {one.key: one.values["accuracy"] for one in trials if one.kind == "inherited"}

    assert verdict(health_of(with_cosines(trials, same))).next == verdict(health_of(trials)).next
