"""Models that are a user's own code: named, trusted, imported.

A name is ``package.module:factory``, or ``path/to/file.py:factory`` with the path relative to the
working directory.  Importing code runs it.  So the code that a config file or a registry names is
refused until the user has said that it is trusted; see :func:`trust`.
"""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import ConfigError, UntrustedError, nearest

EVERYTHING = "*"  # trusted instead of a name, it is all names
_TRUSTED: set[str] = set()


def is_reference(name: str) -> bool:
    """Tell whether a model's name names code rather than a model of the catalogue.

    >>> is_reference("nets/wide.py:build"), is_reference("mlp")
    (True, False)
    """
    return ":" in name


def trust(*names: str) -> None:
    """Allow the code that these names name to be imported, for as long as this process lives.

    Args:
        names: such as ``nets/wide.py:build``; :data:`EVERYTHING` is all code.
    """
    _TRUSTED.update(map(_absolute, names))


def trusted() -> list[str]:
    """Return what is trusted now, for another process to :func:`trust`."""
    return sorted(_TRUSTED)


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Trust the names within a ``with`` block only (see :func:`trust`)."""
    before = set(_TRUSTED)
    trust(*names)
    try:
        yield
    finally:
        _TRUSTED.intersection_update(before)


def find(name: str) -> Callable[..., Any]:
    """Import the factory of that name.

    Raises:
        UntrustedError: where the name is not trusted; nothing was read or run.
        ConfigError: where there is no such file, module or factory, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(
            "model.name: must be package.module:factory or path/to/file.py:factory, however it is "
            f"{name!r}"
        )
    if _TRUSTED.isdisjoint({_absolute(name), EVERYTHING}):
        raise UntrustedError(
            f"model.name: code runs only where it is trusted, however {name!r} is not; read it, "
            f"then give --trust (or ZOO_TRUST=1, or name it by --model), in Python "
            f"zoo.models.trust({name!r})"
        )
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else import_module(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"model.name: {name}: there is no module {error.name!r}; install it, or name its "
                "file as path/to/file.py:factory"
            ) from None
        raise ConfigError(f"model.name: {name}: cannot be imported: {explain(error)}") from error
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(f"model.name: {name}: has no {attribute!r}{nearest(attribute, known)}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ConfigError(
            f"model.name: {name}: must be a function (shape, outputs, **options) -> module, "
            f"however it is of type {type(factory).__name__}"
        )
    return factory  # type: ignore[no-any-return]  # mypy takes callable(Any) for Any


def explain(error: BaseException) -> str:
    """Say in one line what a user's code raised, and where in that code.

    The place is the innermost line in the first file on the way that is neither ours, nor
    PyTorch's, nor Python's.
    """
    kind, text = type(error).__name__, str(error).partition("\n")[0]
    if isinstance(error, SyntaxError) and error.filename:
        text, place = error.msg, f"{error.filename}:{error.lineno}"
    else:
        frames = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").partition(".")[0] not in _OTHERS
        ]
        lines = [line for file, line in frames if file == frames[0][0]]
        place = f"{frames[0][0]}:{lines[-1]}" if frames else ""
    return f"{kind}: {text}" + (f" (at {place})" if place else "")


_OTHERS = {"zoo", "torch", *sys.stdlib_module_names}


def title(name: str) -> str:
    """Return a model's name as a part of the name of runs.

    >>> title("mlp"), title("my nets/wide.py:build"), title("lab.nets:wide")
    ('mlp', 'wide.build', 'nets.wide')
    """
    place, _, factory = name.rpartition(":")
    last = re.split(r"[./\\]", place.removesuffix(".py"))[-1]
    return re.sub(r"[^\w.+-]", "_", f"{last}.{factory}" if last else factory)


def _absolute(name: str) -> str:
    """Return the name with the path of its file made absolute."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if place.endswith(".py") else name


def _from_file(path: Path) -> ModuleType:
    """Import a file under a name made of its path and its content.

    So files of one name do not meet, and an edited file is imported anew.
    """
    path = path.resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"model.name: {path}: cannot be read: {error.strerror}") from None
    name = f"zoo_model_{hashlib.sha256(bytes(path) + source).hexdigest()[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        code = compile(source, path, "exec")
        sys.modules[name] = module
        try:
            exec(code, vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
