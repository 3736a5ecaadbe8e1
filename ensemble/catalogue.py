"""The methods that turn several members into one, read from their own signatures.

A method is a function and one decorator.  Its first parameter is the members: their states
(mode ``weights``) or their predictions (mode ``predictions``).  Of the others, those named in
:data:`NEEDS` are supplied by the caller, and the keyword-only rest are the method's options, whose
types are those of their defaults.  Listing, command line, documentation and contract tests follow
from that.

Of predictions, some methods pool at once.  Others look at validation rows and return what another
function pools by, as its arguments: ``applies(outputs_K, **fit(outputs_K, ...))``.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from ensemble.errors import OptionError, nearest

Mode: TypeAlias = Literal["weights", "predictions"]
Value: TypeAlias = bool | int | float | str
MODULES = (
    "ensemble.average",
    "ensemble.soup",
    "ensemble.predictions",
    "ensemble.selection",
    "ensemble.blending",
    "ensemble.metalearner",
    "ensemble.robust",
    "ensemble.spherical",
    "ensemble.task_vectors",
    "ensemble.stock",
    "ensemble.trajectory",
    "ensemble.fisher",
    "ensemble.regression",
    "ensemble.learned",
)  # where methods are
F = TypeVar("F", bound=Callable[..., object])

NEEDS: Mapping[str, str] = {
    "weights": "one nonnegative number per member",
    "task": "what the members predict: classification, multilabel or regression",
    "score": "a function that scores a state, or predictions of validation rows; higher is better",
    "labels": "the true classes or values of the validation rows",
    "base": "the state all members were fine-tuned from",
    "fisher": "the Fisher information of each member",
    "grams": "the Gram matrices of each member's layer inputs",
    "loss": "a differentiable function of a state, or one of predictions; lower is better",
    "cost": "a function from places of members and a number of rows to the milliseconds they take",
    "module": "a module that the states fit",
}


@dataclass(frozen=True)
class Option:
    """A number, word or switch of a method that the user may set."""

    name: str
    type: type[Value]
    default: Value

    def coerce(self, value: object) -> Value:
        """Return ``value`` in the option's type, or raise :class:`OptionError`.

        An integer will do for a float; nothing else is converted.

        >>> Option("density", float, 0.2).coerce(1)
        1.0
        >>> Option("rounds", int, 50).coerce("many")
        Traceback (most recent call last):
        ensemble.errors.OptionError: option 'rounds' must be of type int, however it is 'many'
        """
        if self.type is float and type(value) is int:
            value = float(value)
        if type(value) is not self.type:
            kind = self.type.__name__
            raise OptionError(
                f"option {self.name!r} must be of type {kind}, however it is {value!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"option {self.name!r} must be finite, however it is {value}")
        return value


@dataclass(frozen=True)
class Method:
    """One way to combine members, as its function declares it."""

    name: str
    mode: Mode
    function: Callable[..., Any]
    summary: str
    paper: str
    needs: tuple[str, ...]
    options: tuple[Option, ...]
    ordered: bool = False
    """Whether the order of the members counts."""
    applies: Callable[..., Any] | None = None
    """The function that pools by what this one finds on validation rows."""

    def bind(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return every option's value: as given and checked, or else its default.

        Raises :class:`OptionError` for an unknown name or a value of another type.
        """
        return bind(self.name, self.options, given)


def bind(who: str, options: Iterable[Option], given: Mapping[str, object]) -> dict[str, Value]:
    """Return the value of each of somebody's options; raises as :meth:`Method.bind` does."""
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise OptionError(f"{who} has no option {name!r}{nearest(name, known)}")
    defaults = {name: option.default for name, option in known.items()}
    return defaults | {name: known[name].coerce(value) for name, value in given.items()}


_METHODS: dict[tuple[Mode, str], Method] = {}


def method(
    name: str,
    *,
    mode: Mode,
    paper: str = "",
    ordered: bool = False,
    applies: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Enter the decorated function in the catalogue, and leave it as it is.

    ``paper`` cites where the method comes from, ``ordered`` tells that the order of the members
    counts, ``applies`` is the function that pools by what this one returns.  Raises ValueError for
    a name the mode already has, and TypeError for a signature or docstring the catalogue cannot
    read.
    """

    def register(function: F) -> F:
        if mode not in get_args(Mode) or (mode, name) in _METHODS:
            raise ValueError(f"mode {mode!r} is unknown or has a method {name!r} already")
        read = _read(function, name, mode, paper)
        _METHODS[mode, name] = replace(read, ordered=ordered, applies=applies)
        return function

    return register


def find(mode: Mode, name: str) -> Method:
    """Return the method of that name, or raise :class:`OptionError` with the nearest one.

    >>> import ensemble.average
    >>> find("weights", "weighted").needs
    ('weights',)
    """
    known = {method.name: method for method in methods(mode)}
    if name not in known:
        raise OptionError(f"no method for {mode} is called {name!r}{nearest(name, known)}")
    return known[name]


def methods(mode: Mode | None = None) -> list[Method]:
    """Return the catalogue, or one mode of it, by mode and name.

    >>> len(methods("predictions")), len(methods("weights"))
    (10, 22)
    """
    for module in MODULES:
        import_module(module)
    return [_METHODS[key] for key in sorted(_METHODS) if mode in (None, key[0])]


def _read(function: Callable[..., Any], name: str, mode: Mode, paper: str) -> Method:
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    if not summary:
        raise TypeError(f"method {name!r} must have a docstring: its first line is the summary")
    needs: list[str] = []
    options: list[Option] = []
    members, *rest = inspect.signature(function).parameters.values()
    if members.name in NEEDS or members.kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"method {name!r} must take the members first, not {members.name!r}")
    for parameter in rest:
        default = parameter.default
        if parameter.name in NEEDS:
            needs.append(parameter.name)
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY and type(default) in get_args(Value):
            options.append(Option(parameter.name, type(default), default))
        else:
            raise TypeError(
                f"parameter {parameter.name!r} of method {name!r} must be one of "
                f"{', '.join(NEEDS)}, or keyword-only with a bool, int, float or str as default"
            )
    return Method(name, mode, function, summary, paper, tuple(needs), tuple(options))
