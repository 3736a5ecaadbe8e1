"""Early stopping: each member as if it were watched alone by the textbook rule."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.stopping import EarlyStopping

NAN = math.nan


def alone(scores, mode, patience, min_delta):
    """Watch one member; return (improved, stop) per epoch, the best score and its epoch."""
    best, best_epoch, told = (math.inf if mode == "min" else -math.inf), 0, []
    for epoch, score in enumerate(scores, start=1):
        gain = best - score if mode == "min" else score - best
        improved = gain > min_delta
        if improved:
            best, best_epoch = score, epoch
        told.append((improved, epoch - best_epoch >= patience))
    return told, best, best_epoch


def watch(scores_TK, mode, patience, min_delta):
    """Watch K members at once; return what was told of each at each epoch, and the watcher."""
    stopping = EarlyStopping(mode, patience, min_delta)
    told = []
    for epoch, row in enumerate(scores_TK, start=1):
        score_K = torch.tensor(row, dtype=torch.float64)
        improved, stop = stopping.update(score_K, torch.full((len(row),), epoch))
        told.append(list(zip(improved.tolist(), stop.tolist(), strict=True)))
    return told, stopping


def one(scores, mode="min", patience=2, min_delta=0.0):
    """Watch a single member; return the epochs that improved, the first to stop, the best."""
    told, stopping = watch([[s] for s in scores], mode, [patience], [min_delta])
    improved = [epoch for epoch, [(better, _)] in enumerate(told, start=1) if better]
    stops = [epoch for epoch, [(_, stop)] in enumerate(told, start=1) if stop]
    return improved, stops[:1], stopping.best_epoch_K.item()


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


def test_larger_is_better_in_mode_max():
    assert one([0.1, 0.5, 0.4, 0.3], mode="max") == ([1, 2], [4], 2)


def test_patience_one_stops_at_the_first_epoch_that_is_not_better():
    assert one([1.0, 2.0], patience=1) == ([1], [2], 1)


SCORES = st.sampled_from([NAN, math.inf, -math.inf, 0.0, 0.25, 0.5, 1.0, 1.0 + 2**-40, -3.0])


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    mode=st.sampled_from(["min", "max"]),
    members=st.integers(1, 5),
    epochs=st.integers(1, 12),
)
def test_members_are_watched_independently_and_by_the_scalar_rule(data, mode, members, epochs):
    row = st.lists(SCORES, min_size=members, max_size=members)
    scores_TK = data.draw(st.lists(row, min_size=epochs, max_size=epochs))
    patience = data.draw(st.lists(st.integers(1, 4), min_size=members, max_size=members))
    delta = data.draw(
        st.lists(st.sampled_from([0.0, 0.25, 2.0]), min_size=members, max_size=members)
    )
    told, stopping = watch(scores_TK, mode, patience, delta)
    for k in range(members):
        expected, best, epoch = alone([r[k] for r in scores_TK], mode, patience[k], delta[k])
        assert [at[k] for at in told] == expected
        assert stopping.best_K[k].item() == best
        assert stopping.best_epoch_K[k].item() == epoch


def test_a_reassigned_place_starts_anew_and_leaves_the_others():
    _, stopping = watch([[1.0, 1.0], [2.0, 0.5]], "min", [9, 9], [0.0, 0.0])
    stopping.assign(0, patience=1, min_delta=0.5)
    improved, stop = stopping.update(torch.tensor([7.0, 0.75]), torch.tensor([1, 3]))
    assert improved.tolist() == [True, False]
    assert stop.tolist() == [False, False]
    improved, stop = stopping.update(torch.tensor([6.75, 0.25]), torch.tensor([2, 4]))
    assert improved.tolist() == [False, True]
    assert stop.tolist() == [True, False]
    assert stopping.best_epoch_K.tolist() == [1, 4]


def test_take_keeps_the_right_members_in_the_given_order():
    _, stopping = watch([[1.0, 2.0, 3.0]], "min", [1, 2, 3], [0.0, 0.5, 0.25])
    stopping.take([2, 0])
    assert stopping.best_K.tolist() == [3.0, 1.0]
    improved, stop = stopping.update(torch.tensor([2.8, 1.0]), torch.tensor([2, 2]))
    assert improved.tolist() == [False, False]
    assert stop.tolist() == [False, True]
