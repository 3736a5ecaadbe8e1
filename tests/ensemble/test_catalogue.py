"""A method is a function and one decorator; the catalogue reads the rest from its signature."""

import subprocess
import sys

import pytest

from ensemble import average, catalogue, predictions, soup
from ensemble.catalogue import Option, find, method, methods
from ensemble.errors import OptionError


@pytest.fixture
def empty(monkeypatch):
    """Lend a test a catalogue of its own."""
    monkeypatch.setattr(catalogue, "_METHODS", {})


@pytest.fixture
def trimmed(empty):
    @method("trimmed", mode="weights", paper="Nobody 2000")
    def trimmed_mean(states, base, *, density: float = 0.2, rounds: int = 3, signs: bool = True):
        """Average what is left.

        More words.
        """

    return find("weights", "trimmed")


def test_the_methods_of_this_package_are_known():
    assert find("weights", "uniform").function is average.uniform
    assert find("predictions", "vote").function is predictions.vote
    assert find("weights", "greedy-soup").function is soup.greedy_soup
    assert find("weights", "greedy-soup").needs == ("score",)
    assert find("weights", "weighted").needs == ("weights",)


def test_a_signature_becomes_needs_and_options(trimmed):
    assert trimmed.summary == "Average what is left."
    assert trimmed.paper == "Nobody 2000"
    assert trimmed.needs == ("base",)
    assert trimmed.options == (
        Option("density", float, 0.2),
        Option("rounds", int, 3),
        Option("signs", bool, True),
    )


def test_bind_fills_in_defaults_and_lets_an_integer_be_a_float(trimmed):
    assert trimmed.bind({"density": 1}) == {"density": 1.0, "rounds": 3, "signs": True}
    assert type(trimmed.bind({"density": 1})["density"]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"densty": 0.3}, "trimmed has no option 'densty'; did you mean 'density'"),
        ({"base": {}}, "trimmed has no option 'base'"),
        ({"density": "0.3"}, "'density' must be of type float, however it is '0.3'"),
        ({"density": float("nan")}, "'density' must be finite"),
        ({"rounds": True}, "'rounds' must be of type int"),
        ({"rounds": 1.0}, "'rounds' must be of type int"),
        ({"signs": 1}, "'signs' must be of type bool"),
    ],
)
def test_options_that_do_not_fit_are_named(trimmed, given, message):
    with pytest.raises(OptionError, match=message):
        trimmed.bind(given)


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(OptionError, match="did you mean 'uniform'"):
        find("weights", "unifrom")


def test_a_name_is_taken_once_per_mode(empty):
    def pool(probabilities):
        """Pool."""

    method("mean", mode="weights")(pool)
    assert method("mean", mode="predictions")(pool) is pool
    with pytest.raises(ValueError, match="has a method 'mean' already"):
        method("mean", mode="weights")(pool)
    assert [(m.mode, m.name) for m in methods()] == [("predictions", "mean"), ("weights", "mean")]
    assert [m.mode for m in methods("weights")] == ["weights"]


def test_an_unknown_mode_is_refused(empty):
    with pytest.raises(ValueError, match="mode 'weight' is unknown"):
        method("mean", mode="weight")(average.uniform)


def _positional(states, density=0.3):
    """Summary."""


def _no_default(states, *, density):
    """Summary."""


def _untyped(states, *, density=None):
    """Summary."""


def _no_members(*, score):
    """Summary."""


def _undocumented(states):
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_positional, "'density' of method 'x'"),
        (_no_default, "'density' of method 'x'"),
        (_untyped, "'density' of method 'x'"),
        (_no_members, "members first, not 'score'"),
        (_undocumented, "docstring"),
    ],
)
def test_a_signature_the_catalogue_cannot_read_is_refused_at_once(empty, function, message):
    with pytest.raises(TypeError, match=message):
        method("x", mode="weights")(function)
    assert methods() == []


def test_the_catalogue_itself_does_not_import_torch():
    code = (
        "import sys, types; p = types.ModuleType('ensemble'); p.__path__ = ['ensemble'];"
        "sys.modules['ensemble'] = p; import ensemble.catalogue; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
