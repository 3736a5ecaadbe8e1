"""What a student learns from a teacher: its predictions for the very inputs, beside the targets.

C. Bucila, R. Caruana & A. Niculescu-Mizil, Model Compression, KDD 2006; G. Hinton, O. Vinyals &
J. Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.  With the share a of
the targets, the temperature T, and the teacher's prediction q for the input that the student sees,

    loss = a * loss(target) + (1 - a) * T^2 * KL(q_T || p_T),   q_T = softmax(log q / T),

where T^2 keeps the gradient's size whatever T is (section 2.1).  Labels are choices of two classes
each, and the loss is the mean over them; quantities have the squared error to the teacher's value,
and no temperature.

Where inputs are changed (augmentation, mixup, noise) the teacher is asked about the changed ones,
step by step: what is learnt is its function, and nothing is assumed of what it says between two
rows (L. Beyer et al. 2022, Knowledge distillation: A good teacher is patient and consistent,
arXiv:2106.05237).  Where they stay as they are, it is asked once.

Axes: K member, N sample, C class or label, T target.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import entr

from zoo.engines import Prepare, portions
from zoo.errors import ConfigError
from zoo.noise import normal_like
from zoo.objective import Objective, squared_error
from zoo.sections import Task

DRAW = 2**21  # apart from the draws of dropout and of augmentation, which have the same seed


@dataclass(frozen=True)
class Teacher:
    """Who is asked, and how much that counts.

    Attributes:
        ask: float32 rows (N, *shape), as models take them -> float32 (N, C) log-probabilities of
            classes or log-odds of labels, or standardised values (N,) or (N, T); on the device of
            the rows.  Threads may ask at once.
        temperature: what log-probabilities and log-odds, the student's too, are divided by.
        labels: the share of the true targets in the loss, from 0 to 1.
        noise: the standard deviation of what is added to every number of an input.
        judges: whether it also counts in the loss of the validation rows, by which training stops,
            and as much; if not, the targets alone do.
    """

    ask: Callable[[Tensor], Tensor]
    temperature: float = 1.0
    labels: float = 0.0
    noise: float = 0.0
    judges: bool = False


@dataclass(frozen=True)
class Lesson:
    """A teacher and what it said.

    Attributes:
        teacher: who is asked.
        answers_N: of the training rows; None where it is asked step by step.
        judged: of the validation rows; empty where it does not judge.
    """

    teacher: Teacher
    answers_N: Tensor | None
    judged: tuple[Tensor, ...] = ()

    def disturbed(self, x_KN: Tensor, seed_K: Tensor) -> Tensor:
        """Add the noise of a step, whose seeds (K,) are the members' own, to inputs."""
        if not self.teacher.noise:
            return x_KN
        return x_KN + self.teacher.noise * normal_like(x_KN, seed_K, DRAW)

    def taught(self, x_KN: Tensor, index_KN: Tensor) -> Tensor:
        """Return what the teacher says of inputs (K, N, *shape), made of rows of these numbers."""
        if self.answers_N is None:
            told = self.teacher.ask(x_KN.flatten(0, 1))
            return told.view(*x_KN.shape[:2], *told.shape[1:])
        shape = (*index_KN.shape, *self.answers_N.shape[1:])
        return self.answers_N.index_select(0, index_KN.reshape(-1)).view(shape)


def lesson(
    teacher: Teacher, train_N: Tensor, val_N: Tensor, prepare: Prepare, *, changed: bool
) -> Lesson:
    """Ask the teacher about the training rows, unless students see them ``changed``.

    About the validation rows it is asked where it judges.
    """

    def told(x_N: Tensor) -> Tensor:
        return torch.cat([teacher.ask(prepare(x)) for x in portions(x_N)])

    answers_N = None if changed or teacher.noise else told(train_N)
    return Lesson(teacher, answers_N, (told(val_N),) if teacher.judges else ())


def check(teacher: Teacher, task: Task) -> None:
    """Check what counts of a teacher.

    Raises:
        ConfigError: for a temperature that is not positive, or a share or noise that is none; or
            where values, which have no temperature, are given one.
    """
    temperature, share, noise = teacher.temperature, teacher.labels, teacher.noise
    if not 0 < temperature < torch.inf or not 0 <= share <= 1 or not 0 <= noise < torch.inf:
        raise ConfigError(
            "a teacher has a positive temperature, a share of labels from 0 to 1 and a noise of 0 "
            f"or more, however they are {temperature}, {share} and {noise}"
        )
    if task == "regression" and temperature != 1:
        raise ConfigError(
            "temperature: softens probabilities, however the task is regression; leave it out"
        )


def with_teacher(objective: Objective, task: Task, teacher: Teacher) -> Objective:
    """Let a task's loss take ``taught_N``, what the teacher says of the rows; without, it stays.

    >>> from zoo.objective import objective
    >>> told = with_teacher(objective("classification"), "classification", Teacher(lambda x: x))
    >>> logits, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]]).log()
    >>> round(float(told.loss(logits, torch.tensor([0]), taught_N=teacher)), 4)
    0.4338
    """
    temperature, share = teacher.temperature, teacher.labels

    def soft(outputs_NC: Tensor, taught_N: Tensor) -> Tensor:
        if task == "regression":
            return squared_error(outputs_NC, taught_N)
        logits_NC, taught_NC = outputs_NC / temperature, taught_N / temperature
        differ = divergence if task == "classification" else label_divergence
        return temperature**2 * differ(logits_NC, taught_NC)

    def loss(
        outputs_NC: Tensor, y_N: Tensor, *, taught_N: Tensor | None = None, **knobs: Tensor
    ) -> Tensor:
        if taught_N is None or share == 1:
            return objective.loss(outputs_NC, y_N, **knobs)
        if share == 0:
            return soft(outputs_NC, taught_N)
        hard = objective.loss(outputs_NC, y_N, **knobs)
        return share * hard + (1 - share) * soft(outputs_NC, taught_N)

    return replace(objective, loss=loss)


def divergence(logits_NC: Tensor, taught_NC: Tensor) -> Tensor:
    """Return KL(q || p) in nats, the mean over rows, of p = softmax(logits), q = softmax(taught).

    It works class first, as :func:`zoo.objective.cross_entropy` does.

    >>> divergence(torch.tensor([[1.0, 1.0]]), torch.tensor([[200.0, 0.0]]))
    tensor(0.6931)
    """
    share_CN = taught_NC.mT.contiguous().softmax(0)
    log_CN = logits_NC.mT.contiguous().log_softmax(0)
    entropy_CN: Tensor = entr(share_CN)
    return -(share_CN * log_CN + entropy_CN).sum(0).mean()


def label_divergence(logits_NC: Tensor, taught_NC: Tensor) -> Tensor:
    """Return KL(q || p) of labels, p = sigmoid(logits), q = sigmoid(taught): the mean over all.

    >>> label_divergence(torch.tensor([[0.0]]), torch.tensor([[200.0]]))
    tensor(0.6931)
    """
    share_NC, other_NC = taught_NC.sigmoid(), (-taught_NC).sigmoid()
    cross_NC = share_NC * softplus(-logits_NC) + other_NC * softplus(logits_NC)
    entropy_NC: Tensor = entr(share_NC) + entr(other_NC)
    return (cross_NC - entropy_NC).mean()
