"""Early stopping: each member as if it were watched alone by the textbook rule."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.stopping import EarlyStopping

NAN = math.nan
USUAL = {
    "patience": 2,
    "min_delta": 0.0,
    "relative": False,
    "start_from_epoch": 0,
    "threshold": NAN,
    "divergence": NAN,
}


def alone(scores, mode, rule, begun=None):
    """Watch one member by plain comparisons; return what is said per epoch, the best, its epoch."""
    rule = SimpleNamespace(**rule)
    best, best_epoch, waited, told = begun, 0, 0, []
    for epoch, score in enumerate(scores, start=1):
        looked_at = epoch >= rule.start_from_epoch
        if best is None:
            worst = math.inf if mode == "min" else -math.inf
            improved = score < worst if mode == "min" else score > worst
        else:
            margin = rule.min_delta
            if rule.relative:
                margin *= abs(best) if math.isfinite(best) else 0.0
            improved = best - score > margin if mode == "min" else score - best > margin
        improved = improved and looked_at
        if improved:
            best, best_epoch, waited = score, epoch, 0
        elif looked_at:
            waited += 1
        enough = waited >= rule.patience
        reached = score <= rule.threshold if mode == "min" else score >= rule.threshold
        lost = score > rule.divergence if mode == "min" else score < rule.divergence
        told.append((improved, (looked_at and (enough or reached)) or lost, lost))
    if best is None:
        best = math.inf if mode == "min" else -math.inf
    return told, best, best_epoch


def watch(scores_TK, mode, **rules):
    """Watch K members at once; return what was told of each at each epoch, and the watcher."""
    stopping = EarlyStopping(mode, rules.pop("patience"), rules.pop("min_delta", 0.0), **rules)
    told = []
    for row in scores_TK:
        seen = stopping.update(torch.tensor(row, dtype=torch.float64))
        told.append(list(zip(*(part.tolist() for part in seen), strict=True)))
    return told, stopping


def one(scores, mode="min", patience=2, min_delta=0.0, **rules):
    """Watch a single member; return the epochs that improved, the first to stop, the best."""
    stopping = EarlyStopping(mode, patience, min_delta, **rules)
    seen = [stopping.update(score) for score in scores]
    improved = [epoch for epoch, said in enumerate(seen, start=1) if said.improved]
    stops = [epoch for epoch, said in enumerate(seen, start=1) if said.stop]
    assert stopping.epoch == len(scores)
    return improved, stops[:1], stopping.best_epoch.item()


def test_a_member_stops_after_patience_epochs_without_improvement():
    assert one([3.0, 2.0, 2.5, 2.1, 1.0]) == ([1, 2, 5], [4], 5)
    assert one([3.0, 2.0, 2.5, 2.1, 1.0], patience=3) == ([1, 2, 5], [], 5)


def test_an_improvement_starts_the_wait_anew():
    assert one([3.0, 4.0, 2.0, 4.0, 1.0, 4.0, 4.0]) == ([1, 3, 5], [7], 5)


def test_a_tie_is_no_improvement_and_the_earlier_epoch_stays_the_best():
    assert one([1.0, 1.0, 1.0]) == ([1], [3], 1)
    assert one([1.0, 1.0, 1.0], mode="max") == ([1], [3], 1)


def test_nan_is_never_an_improvement_nor_remembered():
    assert one([NAN, NAN, 5.0]) == ([3], [2], 3)
    assert one([2.0, NAN, 1.0]) == ([1, 3], [], 3)
    assert one([NAN, 1.0, NAN], mode="max") == ([2], [], 2)


def test_infinite_scores_are_no_improvement_over_nothing():
    assert one([math.inf, 1.0])[0] == [2]
    assert one([-math.inf, 1.0], mode="max")[0] == [2]


def test_an_improvement_must_exceed_min_delta_over_the_best_and_not_the_last():
    # 0.5 is exactly min_delta; 0.75 below the best is more.
    assert one([4.0, 3.5, 3.25, 3.0], min_delta=0.5) == ([1, 3], [], 3)
    assert one([1.0, 1.5, 1.75], mode="max", min_delta=0.5) == ([1, 3], [], 3)


def test_a_relative_min_delta_is_a_share_of_the_best_scores_size():
    # An eighth of 16 is 2, of -16 too; the first score has nothing to be measured by.
    assert one([16.0, 14.0, 13.0, 11.5], min_delta=0.125, relative=True)[0] == [1, 3]
    assert one([-16.0, -18.0, -18.5], min_delta=0.125, relative=True)[0] == [1, 3]
    assert one([16.0, 18.0, 18.5], mode="max", min_delta=0.125, relative=True)[0] == [1, 3]


def test_larger_is_better_in_mode_max():
    assert one([0.1, 0.5, 0.4, 0.3], mode="max") == ([1, 2], [4], 2)


def test_patience_one_stops_at_the_first_epoch_that_is_not_better():
    assert one([1.0, 2.0], patience=1) == ([1], [2], 1)


def test_epochs_before_the_first_that_counts_are_neither_best_nor_waited_for():
    assert one([1.0, 9.0, 9.0, 5.0, 6.0], start_from_epoch=4) == ([4], [], 4)
    assert one([1.0, 9.0, 9.0, NAN, NAN, 1.0], start_from_epoch=4) == ([6], [5], 6)
    # With nothing left out, epoch 1 counts: 0 and 1 mean the same.
    for start in (0, 1):
        assert one([1.0, 2.0, 2.0], start_from_epoch=start) == ([1], [3], 1)


def test_a_score_as_good_as_the_threshold_stops_at_once():
    assert one([3.0, 2.0, 1.0], threshold=2.0) == ([1, 2, 3], [2], 3)
    assert one([0.5, 0.9], mode="max", threshold=0.9) == ([1, 2], [2], 2)
    assert one([1.0, 1.0, 1.0], patience=9, threshold=2.0, start_from_epoch=2) == ([2], [2], 2)


def test_a_score_worse_than_the_divergence_stops_and_says_so_from_the_first_epoch():
    stopping = EarlyStopping("min", 9, divergence=5.0, start_from_epoch=4)
    told = [stopping.update(score) for score in (5.0, 6.0)]
    assert [(bool(said.stop), bool(said.diverged)) for said in told] == [(0, 0), (1, 1)]
    assert EarlyStopping("max", 9, divergence=0.5).update(0.4).diverged
    assert not EarlyStopping("max", 9, divergence=0.5).update(NAN).diverged


def test_a_score_known_before_training_is_to_beat_and_stays_epoch_0():
    stopping = EarlyStopping("min", [2, 2])
    stopping.begin(0, 1.0)
    told = [stopping.update(torch.tensor([score, score])) for score in (1.5, 1.0)]
    assert [said.improved.tolist() for said in told] == [[False, True], [False, True]]
    assert told[1].stop.tolist() == [True, False]
    assert stopping.best.tolist() == [1.0, 1.0]
    assert stopping.best_epoch.tolist() == [0, 2]


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="'min' or 'max', however it is 'least'"):
        EarlyStopping("least", 3)


SCORES = st.sampled_from([NAN, math.inf, -math.inf, 0.0, 0.25, 0.5, 1.0, 1.0 + 2**-40, -3.0, 4.0])
LIMIT = st.sampled_from([NAN, NAN, 0.25, 1.0, -3.0])
RULE = st.fixed_dictionaries(
    {
        "patience": st.integers(1, 4),
        "min_delta": st.sampled_from([0.0, 0.0, 0.25, 0.5, 2.0]),
        "relative": st.booleans(),
        "start_from_epoch": st.integers(0, 6),
        "threshold": LIMIT,
        "divergence": LIMIT,
    }
)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    mode=st.sampled_from(["min", "max"]),
    members=st.integers(1, 5),
    epochs=st.integers(1, 12),
)
def test_members_are_watched_independently_and_by_the_scalar_rule(data, mode, members, epochs):
    row = st.lists(SCORES, min_size=members, max_size=members)
    scores_TK = data.draw(st.lists(row, min_size=epochs, max_size=epochs))
    rules = data.draw(st.lists(RULE, min_size=members, max_size=members))
    begun = st.one_of(st.none(), st.sampled_from([0.5, -3.0, 2.0]))
    given_K = data.draw(st.lists(begun, min_size=members, max_size=members))
    columns = {name: [rule[name] for rule in rules] for name in USUAL}
    stopping = EarlyStopping(mode, columns.pop("patience"), columns.pop("min_delta"), **columns)
    for k, score in enumerate(given_K):
        if score is not None:
            stopping.begin(k, score)
    told = [stopping.update(torch.tensor(row, dtype=torch.float64)) for row in scores_TK]
    for k in range(members):
        scores = [row[k] for row in scores_TK]
        expected, best, epoch = alone(scores, mode, rules[k], given_K[k])
        assert [tuple(bool(part[k]) for part in said) for said in told] == expected
        assert stopping.best[k].item() == best
        assert stopping.best_epoch[k].item() == epoch
        assert stopping.epoch[k].item() == epochs


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["min", "max"]),
    rule=RULE,
    scores=st.lists(SCORES, min_size=1, max_size=12),
)
def test_a_single_model_in_anybodys_loop_is_watched_by_the_same_rule(mode, rule, scores):
    stopping = EarlyStopping(mode, **rule)
    told = [tuple(map(bool, stopping.update(score))) for score in scores]
    expected, best, epoch = alone(scores, mode, rule)
    assert told == expected
    assert (stopping.best.item(), stopping.best_epoch.item()) == (best, epoch)


def test_a_number_beside_sequences_is_meant_for_every_member():
    one_number, _ = watch([[1.0, 1.0], [2.0, 0.5]], "min", patience=[1, 2], min_delta=0.25)
    many, _ = watch([[1.0, 1.0], [2.0, 0.5]], "min", patience=[1, 2], min_delta=[0.25, 0.25])
    assert one_number == many


def test_a_reassigned_place_starts_anew_and_leaves_the_others():
    _, stopping = watch([[1.0, 1.0], [2.0, 0.5]], "min", patience=[9, 9], divergence=[0.1, NAN])
    stopping.assign(0, {**USUAL, "patience": 1, "min_delta": 0.5})
    improved, stop, diverged = stopping.update(torch.tensor([7.0, 0.75]))
    assert improved.tolist() == [True, False]
    assert stop.tolist() == diverged.tolist() == [False, False]
    improved, stop, _ = stopping.update(torch.tensor([6.75, 0.25]))
    assert improved.tolist() == [False, True]
    assert stop.tolist() == [True, False]
    assert stopping.best_epoch.tolist() == [1, 4]
    assert stopping.epoch.tolist() == [2, 4]


def test_take_keeps_the_right_members_in_the_given_order():
    _, stopping = watch([[1.0, 2.0, 3.0]], "min", patience=[1, 2, 3], min_delta=[0.0, 0.5, 0.25])
    stopping.take([2, 0])
    assert stopping.best.tolist() == [3.0, 1.0]
    improved, stop, _ = stopping.update(torch.tensor([2.8, 1.0]))
    assert improved.tolist() == [False, False]
    assert stop.tolist() == [False, True]


def test_the_rows_written_into_another_watcher_let_it_go_on_alike():
    _, stopping = watch([[1.0, 2.0], [0.5, 3.0]], "min", patience=[2, 2])
    other = EarlyStopping("min", [2, 2])
    for name, row in other.rows().items():
        row.copy_(stopping.rows()[name])
    for score in ([0.6, 1.0], [0.7, 2.0]):
        ours, theirs = stopping.update(torch.tensor(score)), other.update(torch.tensor(score))
        assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]
