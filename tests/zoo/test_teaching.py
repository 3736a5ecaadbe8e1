"""Soft targets: the loss by known answers, and whole trainings by a plain loop of PyTorch."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from crowd import CLOSE, data, members, same_end, settings, train
from pixels import digits, write
from torch import nn

from zoo import models
from zoo.data import Part, load, of_tensors
from zoo.errors import ConfigError
from zoo.fit import Fit
from zoo.objective import objective
from zoo.reports import Member
from zoo.sections import DataConfig
from zoo.slots import Slot, mixing, order
from zoo.teaching import Teacher, with_teacher

TASKS = ("classification", "multilabel", "regression")


def drawn(task, rows=50, outputs=3):
    """Outputs of a student, targets, and what a teacher says."""
    generator = torch.Generator().manual_seed(0)
    outputs_NC, taught = torch.randn(2, rows, outputs, generator=generator) * 3
    if task == "classification":
        y = torch.randint(0, outputs, (rows,), generator=generator)
        return outputs_NC, y, taught.log_softmax(1)
    if task == "multilabel":
        return outputs_NC, (torch.rand(rows, outputs, generator=generator) < 0.5).float(), taught
    return outputs_NC, torch.randn(rows, outputs, generator=generator), taught


def taught_loss(task, **knobs):
    return with_teacher(objective(task), task, Teacher(lambda x: x, **knobs)).loss


def reference(task, outputs, y, taught, temperature=1.0, labels=0.0):
    """The same loss by PyTorch's own functions, with a graph."""
    if task == "regression":
        hard, soft = F.mse_loss(outputs, y.reshape(outputs.shape)), F.mse_loss(outputs, taught)
    elif task == "classification":
        hard = F.cross_entropy(outputs, y)
        logs = ((z / temperature).log_softmax(1) for z in (outputs, taught))
        soft = F.kl_div(*logs, reduction="batchmean", log_target=True) * temperature**2
    else:
        hard = F.binary_cross_entropy_with_logits(outputs, y)
        pairs = [
            torch.stack([F.logsigmoid(z), F.logsigmoid(-z)])
            for z in (outputs / temperature, taught / temperature)
        ]
        soft = F.kl_div(*pairs, reduction="sum", log_target=True) / y.numel() * temperature**2
    return labels * hard + (1 - labels) * soft


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("labels", [0.0, 0.3])
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradient_are_those_of_pytorchs_own_functions(task, labels, temperature):
    temperature = 1.0 if task == "regression" else temperature
    outputs, y, taught = drawn(task)
    outputs.requires_grad_()
    ours = taught_loss(task, temperature=temperature, labels=labels)(outputs, y, taught_N=taught)
    theirs = reference(task, outputs, y, taught, temperature, labels)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, outputs)[0], torch.autograd.grad(theirs, outputs)[0]
    )


def test_hot_gradients_are_differences_of_logits_whatever_the_temperature():
    """Hinton et al. 2015, eq. 4, times T^2: (z - v) / C for logits whose mean is 0."""
    outputs, y, taught = drawn("classification")
    outputs, taught = (z - z.mean(1, keepdim=True) for z in (outputs, taught))
    for temperature in (300.0, 1000.0):
        z = outputs.clone().double().requires_grad_()
        loss = taught_loss("classification", temperature=temperature)
        loss(z, y, taught_N=taught.double()).backward()
        expected = (z.detach() - taught) / 3 / len(y)
        torch.testing.assert_close(z.grad, expected.double(), rtol=0, atol=0.15 / temperature)


@pytest.mark.parametrize("task", TASKS)
def test_a_student_that_says_what_the_teacher_says_has_no_loss_and_no_gradient(task):
    outputs, y, _ = drawn(task)
    outputs.requires_grad_()
    loss = taught_loss(task)(outputs, y, taught_N=outputs.detach())
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert abs(loss.item()) < 1e-6
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("task", TASKS)
def test_a_sure_teacher_that_is_right_is_as_good_as_labels(task):
    outputs, y, _ = drawn(task)
    sure = {
        "classification": F.one_hot(y, 3).float().log() if task == "classification" else None,
        "multilabel": (2 * y - 1) * torch.inf,
        "regression": y,
    }[task]
    torch.testing.assert_close(
        taught_loss(task)(outputs, y, taught_N=sure), objective(task).loss(outputs, y)
    )


@pytest.mark.parametrize("task", TASKS)
def test_labels_alone_are_the_loss_without_a_teacher(task):
    outputs, y, taught = drawn(task)
    plain = objective(task).loss(outputs, y)
    assert torch.equal(
        taught_loss(task, labels=1.0)(outputs, y, taught_N=taught * torch.nan), plain
    )
    assert torch.equal(taught_loss(task)(outputs, y), plain)


@pytest.mark.parametrize(
    "knobs", [{"temperature": 0.0}, {"labels": 1.5}, {"noise": -1.0}, {"temperature": torch.nan}]
)
def test_what_no_teacher_can_be_is_refused(knobs):
    with pytest.raises(ConfigError, match="a teacher has a positive temperature"):
        Fit(members(settings()), data("iris"), teacher=Teacher(linear(), **knobs))


def test_values_have_no_temperature():
    crowd, source = members(settings("diabetes")), data("diabetes")
    with pytest.raises(ConfigError, match="temperature: softens probabilities"):
        Fit(crowd, source, teacher=Teacher(linear(10, 1), temperature=2.0))


def linear(shape=4, outputs=3):
    torch.manual_seed(7)
    layer = nn.Linear(shape, outputs).requires_grad_(requires_grad=False)
    return lambda x_N: layer(x_N.flatten(1)).log_softmax(1)


def solo(member, source, teacher):
    """Train one member by a plain loop on what a teacher says; return its last weights."""
    wanted, config = member.config.train, member.config
    module = models.build("mlp", config.model.options, source.shape, source.outputs, member.seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=config.optim.lr)
    losses = []
    for epoch in range(wanted.epochs):
        slot = Slot(member, epoch=epoch)
        batches = order(slot, len(source.train)).split(wanted.batch_size)
        mix = mixing([slot], len(batches))
        for step, index in enumerate(batches):
            x, y = source.train.x[index], source.train.y[index]
            share = 1.0 if mix is None else mix[step, 0].item()
            x = share * x + (1 - share) * x.flip(0)
            outputs, taught = module(x), teacher.ask(x)
            loss = share * reference(
                source.task, outputs, y, taught, teacher.temperature, teacher.labels
            )
            loss = loss + (1 - share) * reference(
                source.task, outputs, y.flip(0), taught, teacher.temperature, teacher.labels
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item() * len(index) / len(source.train))
    return module.state_dict(), sum(losses[-len(batches) :])


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_a_whole_training_agrees_with_a_plain_loop_for_each_student(mixup, engine):
    source = data("iris")
    train_config = {"epochs": 3, "batch_size": 30, "mixup": mixup}
    crowd = members(*[settings(train=train_config, keep={"last": True})] * 3)
    teacher = Teacher(linear(), temperature=2.0, labels=0.25)
    history, ends = train(crowd, source, engine=engine, teacher=teacher)
    for member in crowd:
        state, loss = solo(member, source, teacher)
        (last,) = [kept for kept in ends[member.key].kept if kept.kind == "last"]
        for name, value in state.items():
            torch.testing.assert_close(last.state[name], value, **CLOSE)
        assert history[member.key][-1].train_loss == pytest.approx(loss, rel=1e-3)


def test_validation_is_by_the_true_targets_unless_the_teacher_judges():
    source = data("iris")
    liar = Teacher(lambda x_N: torch.tensor([0.0, -9.0, -9.0]).expand(len(x_N), 3))
    history, ends = train(members(settings(train={"epochs": 4})), source, teacher=liar)
    state = ends["m0"].state
    module = models.build("mlp", {"hidden": [8]}, (4,), 3, 0)
    module.load_state_dict(state)
    with torch.no_grad():
        loss = F.cross_entropy(module(source.val.x), source.val.y).item()
    best = min(history["m0"], key=lambda epoch: epoch.val_loss)
    assert best.val_loss == pytest.approx(loss, rel=1e-4)
    assert history["m0"][-1].train_loss < 0.5 < history["m0"][-1].val_loss


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
@pytest.mark.parametrize("task", TASKS)
def test_a_teacher_that_judges_counts_in_validation_as_in_training(task, engine):
    """Of rows that are learnt from in one batch without noise both losses are the same."""
    draw = torch.Generator().manual_seed(0)
    x, line = torch.randn(40, 3, generator=draw), nn.Linear(3, 2)
    y = torch.randint(2, (40,), generator=draw)
    if task != "classification":
        y = (torch.randn(40, 2, generator=draw) > 0).float()
    part = Part(x, y)
    temperature = 1.0 if task == "regression" else 2.0
    teacher = Teacher(lambda x_N: line(x_N).detach(), temperature, labels=0.25, judges=True)
    rows = of_tensors(part, part, task, 2)
    sgd = {"name": "sgd", "lr": 0.1}
    asked = settings(ref=rows.ref, train={"epochs": 3, "batch_size": 40}, optim=sgd)
    member = Member("0", asked, 0, module=nn.Linear(3, 2))
    epochs = [e for p in Fit([member], rows, engine=engine, teacher=teacher) for e in p.epochs]
    # What training tells is of before the step, and so of the end of the epoch before.
    told = [(a.val_loss, b.train_loss) for a, b in itertools.pairwise(epochs)]
    assert len(told) == 2
    for val_loss, train_loss in told:
        assert val_loss == pytest.approx(train_loss, rel=1e-5)


@pytest.mark.parametrize("labels", [0.0, 0.5])
def test_parts_of_a_batch_add_up_to_it_with_a_teacher(labels):
    teacher = Teacher(linear(), labels=labels)
    one, parts = (settings(train={"epochs": 2, "mixup": 0.3, "accumulate": n}) for n in (1, 3))
    first, _ = train(members(one), data("iris"), teacher=teacher)
    second, _ = train(members(parts), data("iris"), teacher=teacher)
    for whole, summed in zip(first["m0"], second["m0"], strict=True):
        assert summed.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
        assert summed.val_loss == pytest.approx(whole.val_loss, rel=1e-4)


class Listening:
    """A teacher that remembers what it was asked about."""

    def __init__(self):
        self.asked = []
        self.ask = linear()

    def __call__(self, x_N):
        self.asked.append(x_N.clone())
        return self.ask(x_N)


def test_rows_that_stay_as_they_are_are_asked_about_once():
    listening = Listening()
    train(members(settings(train={"epochs": 3})), data("iris"), teacher=Teacher(listening))
    assert torch.equal(torch.cat(listening.asked), data("iris").train.x)


def test_noise_is_each_students_own_and_what_the_teacher_hears():
    source, listening = data("iris"), Listening()
    crowd = members(*[settings(train={"epochs": 1, "batch_size": 90})] * 2)
    teacher = Teacher(listening, noise=0.5)
    train(crowd, source, teacher=teacher)
    heard = listening.asked[-1].view(2, 90, 4)
    rows = torch.stack([source.train.x[order(Slot(member), 90)] for member in crowd])
    noise = heard - rows
    assert noise.std().item() == pytest.approx(0.5, rel=0.1)
    assert abs(noise.mean().item()) < 0.08
    assert (noise[0] - noise[1]).abs().max() > 0.1


def test_a_student_is_the_same_alone_and_in_a_crowd_with_noise():
    source, teacher = data("iris"), Teacher(linear(), noise=0.3)
    config = settings(train={"epochs": 2, "mixup": 0.5})
    crowd = members(config, config, config)
    _, together = train(crowd, source, teacher=teacher)
    _, alone = train([crowd[1]], source, teacher=teacher)
    same_end(together["m1"], alone["m1"], exact=False)


def test_a_resumed_student_comes_out_the_same_to_the_last_bit():
    source, teacher = data("iris"), Teacher(linear(), noise=0.3)
    crowd = members(*[settings(train={"epochs": 4, "mixup": 0.5})] * 2)
    _, whole = train(crowd, source, teacher=teacher)
    fit = Fit(crowd, source, engine="stacked", device="cpu", teacher=teacher)
    passes = iter(fit)
    next(passes)
    next(passes)
    tensors, note = copy.deepcopy(fit.snapshot())
    by_key = {member.key: member for member in crowd}
    resumed = Fit.resume(by_key, source, tensors, note, device="cpu", teacher=teacher)
    ended = {end.key: end for happened in resumed for end in happened.finished}
    for key, end in whole.items():
        same_end(ended[key], end)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_images_held_as_bytes_are_asked_about_as_models_take_them(mixup, tmp_path):
    source = load(DataConfig(**write(tmp_path, "npz", *digits(100))))
    assert source.train.x.dtype == torch.uint8
    listening = Listening()
    listening.ask = linear(64, 10)
    config = settings("digits", train={"epochs": 1, "mixup": mixup})
    train(members(config), source, teacher=Teacher(listening))
    assert {x.dtype for x in listening.asked} == {torch.float32}
    assert abs(torch.cat(listening.asked).mean().item()) < 0.5


def test_a_module_is_trained_as_it_is_given():
    x, y = data("iris").train.x, data("iris").train.y
    source = of_tensors(Part(x, y), Part(x, y), "classification", 3)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    before = copy.deepcopy(module.state_dict())
    config = settings("tensors", train={"epochs": 5})
    given = Member("m", config, 0, module.state_dict(), module=module)
    (end,) = [end for happened in Fit([given], source, device="cpu") for end in happened.finished]
    assert end.state.keys() == before.keys()
    assert not torch.equal(end.state["0.weight"], before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
