"""Distilling and healing plain modules: what is known to come out, and what is refused."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from sklearn.datasets import load_digits, make_multilabel_classification
from torch import nn

from ensemble import align, distill, heal, repair, symmetry, uniform
from ensemble.distillation import members_as_teacher
from ensemble.errors import DivergedError, EmptyError, EnsembleError, NonFiniteError
from ensemble.ladder import climb
from ensemble.responses import activations
from zoo.errors import ConfigError

FAST = {"optim": {"lr": 0.05}, "train": {"epochs": 150}}


def layer(inputs=4, outputs=3, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


def rows(task, teacher, count=200):
    torch.manual_seed(1)
    x = torch.randn(count, 4)
    with torch.no_grad():
        told = teacher(x)
    targets = {"classification": told.argmax(1), "multilabel": (told > 0).float()}
    return x, targets.get(task, told)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_student_of_a_linear_teacher_recovers_it(task):
    """Targets are drawn from what the teacher says, so that it is the best by these too."""
    teacher = layer(seed=1)
    torch.manual_seed(1)
    x = 2 * torch.randn(3000, 4)
    with torch.no_grad():
        told = teacher(x)
    y = {
        "classification": told.softmax(1).multinomial(1).squeeze(1),
        "multilabel": told.sigmoid().bernoulli(),
        "regression": told,
    }[task]
    state = distill(layer(), teacher, (x, y), (x, y), task=task, settings={"optim": {"lr": 0.03}})
    weights = [state["weight"], teacher.weight]
    if task == "classification":  # up to what is added to all logits
        weights = [weight - weight.mean(0) for weight in weights]
    torch.testing.assert_close(*weights, rtol=0, atol=0.03)


def test_a_student_of_many_learns_their_mean():
    """Of linear members the mean of values is linear too: the mean of their weights."""
    states = [layer(seed=seed).state_dict() for seed in (1, 2, 3)]
    teacher = members_as_teacher(layer(), states, "regression")
    train = rows("regression", teacher)
    state = distill(layer(), teacher, train, train, task="regression", settings=FAST)
    torch.testing.assert_close(state["weight"], uniform(states)["weight"], rtol=0, atol=0.02)


def test_with_labels_alone_it_does_not_matter_what_the_teacher_says():
    train = rows("classification", layer(seed=1))
    told = {"labels": 1.0, "settings": {"train": {"epochs": 3}}}
    one = distill(layer(), lambda x_N: x_N[:, :3], train, train, **told)
    two = distill(layer(), lambda x_N: -9 * x_N[:, 1:], train, train, **told)
    torch.testing.assert_close(dict(one), dict(two), rtol=0, atol=1e-4)  # of any engine


def test_the_best_of_several_students_is_kept_and_all_are_left_as_they_were():
    teacher = layer(seed=1)
    train = rows("classification", teacher)
    students = [layer(seed=seed) for seed in range(3)]
    before = [copy.deepcopy(student.state_dict()) for student in students]
    told = {"settings": {"train": {"epochs": 2}}}
    best = distill(students, teacher, train, train, **told)
    alone = [distill(student, teacher, train, train, **told) for student in students]
    accuracies = []
    for state in alone:
        module = layer()
        module.load_state_dict(state)
        accuracies.append((module(train[0]).argmax(1) == train[1]).float().mean().item())
    assert accuracies[best.student] == max(accuracies)
    assert best.epochs == 6
    assert best.epoch <= 2
    for student, state in zip(students, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in student.state_dict().items())


def test_what_is_no_lesson_is_refused():
    teacher = layer(seed=1)
    x, y = rows("classification", teacher)
    with pytest.raises(EmptyError, match="must be a student"):
        distill([], teacher, (x, y), (x, y))
    with pytest.raises(EnsembleError, match=r"train must have a target for every row.* 200 .* 9 "):
        distill(layer(), teacher, (x, y[:9]), (x, y))
    with pytest.raises(EnsembleError, match="int64 classes from 0 to 2, however those of val"):
        distill(layer(), teacher, (x, y), (x, y + 1))
    with pytest.raises(EnsembleError, match="float32, 3 a row"):
        distill(layer(), teacher, (x, y), (x, y), task="regression")
    with pytest.raises(ConfigError, match=r"train.epoch: no such key; did you mean 'epochs'"):
        distill(layer(), teacher, (x, y), (x, y), settings={"train": {"epoch": 1}})


def test_students_that_diverge_are_said_to():
    teacher = layer(seed=1)
    train = rows("regression", teacher)
    with pytest.raises(DivergedError, match=r"all 2 diverged; try a smaller optim.lr") as caught:
        distill(
            [layer(), layer(seed=2)],
            teacher,
            train,
            train,
            task="regression",
            settings={"optim": {"name": "sgd", "lr": 1e6}},
        )
    assert caught.value.exit_code == 3


def test_a_teacher_that_says_nan_or_something_else_is_refused():
    x, y = rows("classification", layer())
    at = (x, y), (x, y)
    with pytest.raises(NonFiniteError, match="first for validation row 3"):
        distill(layer(), lambda x_N: torch.where(x_N == x[3], torch.nan, x_N)[:, :3], *at)
    with pytest.raises(EnsembleError, match="the same outputs, however they have 4 and 3"):
        distill(layer(), lambda x_N: x_N, *at)


def test_the_member_that_predicts_nan_is_named():
    states = [layer(seed=seed).state_dict() for seed in (1, 2)]
    train = rows("classification", layer())
    big = {key: value * 1e38 for key, value in states[1].items()}
    teacher = members_as_teacher(layer(), [states[0], big], "classification")
    with pytest.raises(NonFiniteError, match="member #1"):
        distill(layer(), teacher, (train[0] * 1e3, train[1]), train)


@pytest.fixture(scope="module")
def digits():
    """Four networks that learnt digits from seeds of their own, and the rows."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor((x - 8) / 8, dtype=torch.float32)[order], torch.tensor(y)[order]
    train, val, test = ((x[a:b], y[a:b]) for a, b in ((0, 1000), (1000, 1400), (1400, len(x))))
    module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    module.append(nn.Linear(48, 10))
    states = []
    for seed in range(4):
        torch.manual_seed(seed)
        for part in module[::2]:
            part.reset_parameters()
        adam = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(12):
            for index in torch.randperm(1000).split(100):
                loss = F.cross_entropy(module(train[0][index]), train[1][index])
                adam.zero_grad()
                loss.backward()
                adam.step()
        states.append({key: value.clone() for key, value in module.state_dict().items()})
    return module, states, train, val, test


def loss_of(module, state, part):
    module.load_state_dict(state)
    with torch.no_grad():
        return F.cross_entropy(module(part[0]), part[1]).item()


def mended(module, states, x):
    """The aligned and repaired average, by the functions that users have."""
    found = symmetry(module, x[:2])
    aligned = align(states, found, activations=activations(module, states, [x], found))
    return repair(module, aligned, uniform(aligned), [x])


def test_a_quarter_of_the_epochs_wins_back_most_of_what_averaging_lost(digits):
    module, states, train, val, test = digits
    average = mended(module, states, train[0])
    members = sum(loss_of(module, state, test) for state in states) / 4
    rate = {"optim": {"lr": 3e-3}}  # the members' own
    healed = heal(module, average, states, train, val, epochs=3, settings=rate)
    lost = loss_of(module, average, test) - members
    assert lost > 0.03
    assert loss_of(module, healed, test) - members < lost / 2
    assert healed.epochs == 3
    assert 1 <= healed.epoch <= 3
    assert healed.val_loss == pytest.approx(loss_of(module, healed, val), rel=1e-4)


def test_healing_that_gains_nothing_gives_the_average_back(digits):
    module, states, train, val, _ = digits
    wrong = (train[0].flip(1), train[1])  # whatever is learnt here is no use on the others
    healed = heal(module, states[0], states, wrong, val, epochs=2, settings={"optim": {"lr": 0.1}})
    assert healed.epoch == 0
    assert all(torch.equal(healed[key], states[0][key]) for key in states[0])


def test_the_ladder_says_where_healing_diverged(digits):
    module, states, train, val, _ = digits

    def figures(state):
        return {"val_loss": loss_of(module, state, val)}

    def worth(told):
        return -told["val_loss"]

    def diverging(state):
        raise DivergedError("a student must learn, however all 1 diverged")

    batches = [train[0]]
    ladder = climb(module, states, batches, figures, worth, heal=diverging)
    assert ladder.notes[-1].startswith("Nothing was healed: a student must learn")
    names = [rung.name for rung in ladder.rungs]
    assert names[:4] == ["best single", "naive", "aligned", "repaired"]
    loss = ladder.rungs[3].figures["val_loss"]  # of the way that is better
    assert ladder.notes[0].startswith("Units are matched by ")
    assert min(map(float, re.findall(r"([\d.]+) by", ladder.notes[0]))) == float(f"{loss:.3g}")
    given = []

    def told(state):
        given.append(state)
        return state, 7

    ladder = climb(module, states, batches, figures, worth, align=False, repair=False, heal=told)
    assert [rung.name for rung in ladder.rungs] == ["best single", "naive", "healed"]
    assert given[0] is ladder.rungs[1].state
    assert ladder.rungs[-1].epochs == 7
    lowest = climb(module, states, batches, figures, worth, align=True, heal=told)
    rungs = {rung.name: rung for rung in lowest.rungs}
    losses = [rung.figures["val_loss"] for rung in lowest.rungs[1:-1]]
    assert rungs["healed"].figures["val_loss"] == min(losses)


def test_labels_of_several_kinds_can_be_distilled():
    x, y = make_multilabel_classification(300, 4, n_classes=3, random_state=0)
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32)
    states = [layer(seed=seed).state_dict() for seed in range(3)]
    teacher = members_as_teacher(layer(), states, "multilabel")
    student = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    state = distill(
        student,
        teacher,
        (x, y),
        (x, y),
        task="multilabel",
        temperature=2.0,
        labels=0.5,
        noise=0.1,
        settings={"train": {"epochs": 40, "mixup": 0.5}},
    )
    student.load_state_dict(state)
    loss = F.binary_cross_entropy_with_logits(student(x), y).item()
    assert state.val_loss == pytest.approx(loss, rel=1e-3)
    assert loss < F.binary_cross_entropy_with_logits(teacher(x), y).item()
