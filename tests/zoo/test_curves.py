"""A verdict is what a person would say of the curve, and the drawings show what was measured."""

import math
import random
import xml.etree.ElementTree as ET
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import curves, drawing, picture
from zoo.config import parse
from zoo.curves import SAYINGS, trained, verdict
from zoo.drawing import curves_text, legible, panel
from zoo.errors import MismatchError, UsageError
from zoo.picture import COLOURS
from zoo.planning import plan
from zoo.registry import Registry
from zoo.training import train_many


def rows(train, val):
    """A history of given losses; the metrics are not measured."""
    return [
        {"run_id": "x", "epoch": i, "train_loss": t, "val_loss": v, "lr": 0.1}
        | {"train_metric": None, "val_metric": None, "seconds": 1.0}
        for i, (t, v) in enumerate(zip(train, val, strict=True), start=1)
    ]


def decay(epochs, floor=0.0, rate=0.1, start=2.0):
    return [floor + (start - floor) * math.exp(-rate * epoch) for epoch in range(epochs)]


def noisy(values, noise, seed):
    rng = random.Random(seed)
    return [value * math.exp(rng.gauss(0, noise)) for value in values]


FALLING = decay(100)
PLATEAU = decay(100, floor=0.3, rate=0.2)
TURNED = [max(loss, 0.3 + 0.004 * epoch) for epoch, loss in enumerate(decay(100, rate=0.1))]


@pytest.mark.parametrize(
    ("train", "val", "kind", "says"),
    [
        (FALLING, TURNED, "overfitting", "went on falling"),
        (FALLING, PLATEAU, "healthy", "0.3 at the end"),
        (FALLING[:20], FALLING[:20], "still-improving", "train for more epochs"),
        (FALLING[:9], FALLING[:9], "too-short", "9 of the 10 epochs"),
        ([], [], "too-short", "0 of the 10 epochs"),
        (FALLING, [None] * 100, "too-short", "0 of the 10 epochs"),
        ([2.31] * 30, [2.30] * 30, "underfitting", "that of guessing (2.303)"),
        (
            [1e6 * x for x in FALLING],
            [1e6 * x for x in TURNED],
            "underfitting",
            "no better than that of guessing",
        ),
        (TURNED, TURNED, "unstable", "both losses have risen"),
        ([*FALLING[:50], 0.9, *FALLING[50:]], [*PLATEAU, 0.3], "unstable", "to 0.9 in epoch 51"),
        (FALLING, noisy(PLATEAU, 0.3, 0), "unstable", "goes up and down"),
        ([*FALLING[:30], math.nan], [*PLATEAU[:30], 0.3], "diverged", "in epoch 31"),
        ([*FALLING[:30], 0.1], [*PLATEAU[:30], math.inf], "diverged", "in epoch 31"),
        ([None], [None], "diverged", "in epoch 1;"),
        ([9.0], [None], "diverged", "in epoch 1;"),
    ],
)
def test_a_verdict_says_what_a_person_would(train, val, kind, says):
    found = verdict(rows(train, val), guess=math.log(10))
    assert found.kind == kind
    assert says in found.sentence


def test_every_finding_is_told_by_some_verdict_above():
    parameters = test_a_verdict_says_what_a_person_would.pytestmark[0].args[1]
    assert {kind for _, _, kind, _ in parameters} == {kind for kind, _ in SAYINGS.values()}


def test_the_figures_are_those_of_the_losses():
    history = rows(FALLING, TURNED)
    found = verdict(history, best_epoch=20)
    lowest = min(range(100), key=TURNED.__getitem__)
    assert abs(found.turn - (lowest + 1)) <= 2
    assert found.rise == pytest.approx(TURNED[97] / TURNED[lowest] - 1, rel=0.1)
    assert found.gap_best == TURNED[19] - FALLING[19]
    assert found.gap_end == TURNED[-1] - FALLING[-1]
    assert found.sentence.endswith("The weights kept are those of epoch 20.")
    assert verdict(history).gap_best is None


def test_a_gap_may_be_negative():
    assert verdict(rows(PLATEAU, [0.8 * loss for loss in PLATEAU])).gap_end < 0


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_the_noise_of_few_validation_rows_is_no_turn(noise):
    kinds = [verdict(rows(FALLING, noisy(PLATEAU, noise, seed))).kind for seed in range(200)]
    assert kinds.count("overfitting") <= 4, kinds
    assert kinds.count("healthy") + kinds.count("unstable") >= 190


def test_a_turn_is_found_in_noise():
    found = [verdict(rows(FALLING, noisy(TURNED, 0.05, seed))) for seed in range(50)]
    assert {each.kind for each in found} == {"overfitting"}
    assert fmean(each.turn for each in found) == pytest.approx(19, abs=6)


def test_one_outlier_is_no_turn_and_no_promise():
    for epoch in range(100):
        val = list(PLATEAU)
        val[epoch] *= 3
        assert verdict(rows(FALLING, val)).kind == "healthy", epoch


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1])
def test_the_noise_is_estimated_beside_the_course(noise):
    found = [
        verdict(rows(FALLING[:50], noisy(decay(50), noise, seed))).noise for seed in range(100)
    ]
    assert fmean(found) == pytest.approx(noise, rel=0.1)
    assert pstdev(found) < 0.3 * noise


@given(st.floats(0.5, 1e4))
def test_the_unit_of_a_loss_does_not_matter(unit):
    plain = verdict(rows(FALLING[:40], TURNED[:40]))
    scaled = verdict(rows([unit * x for x in FALLING[:40]], [unit * x for x in TURNED[:40]]))
    assert (scaled.kind, scaled.turn) == (plain.kind, plain.turn)
    assert scaled.rise == pytest.approx(plain.rise)


def test_a_doubling_of_almost_nothing_is_no_overfitting():
    val = [max(loss, 1e-4 * (1 + epoch / 50)) for epoch, loss in enumerate(decay(100, rate=0.3))]
    assert verdict(rows(FALLING, val)).kind == "healthy"
    assert verdict(rows([0.0] * 20, [0.0] * 20)).kind == "healthy"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Runs of breast_cancer and diabetes whose fate is known from how they were asked for."""
    folder = tmp_path_factory.mktemp("curves")
    asked = {
        "large": {"model": {"hidden": [256, 256]}, "train": {"epochs": 60}},
        "slow": {"optim": {"lr": 1e-4}, "train": {"epochs": 30}},
        "hasty": {"optim": {"name": "sgd", "lr": 1e4}},
        "one": {"train": {"epochs": 1}},
        "small": {"data": {"ref": "diabetes"}, "model": {"hidden": [4]}, "train": {"epochs": 12}},
    }
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as registry:
        for name, settings in asked.items():
            data = {"data": {"ref": "breast_cancer"}, "stop": {"patience": 40}}
            train_many(plan(parse({"name": name, "seeds": 2, **data, **settings})), registry)
        yield registry


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("large", "overfitting"),
        ("slow", "still-improving"),
        ("hasty", "diverged"),
        ("one", "too-short"),
    ],
)
def test_verdicts_of_real_runs(registry, name, kind):
    assert {curves.judge(*curve).kind for curve in trained(registry, name)} == {kind}


def test_a_drawing_fits_its_width_and_names_its_epochs(registry):
    [(run, history), *_] = trained(registry, "large")
    for width in (60, 80, 133):
        text = curves_text([(run, history)], "table", width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count(f"▲ best epoch {run.best_epoch}") == 2
        assert text.count(f"{len(history)} of 60") == (2 if len(history) < 60 else 0)
        assert "Overfitting: " in text


def field(text):
    """The rows of a panel's field, highest first."""
    return [line.partition("┤")[2] for line in text.splitlines() if "┤" in line]


def test_a_line_rises_where_the_values_rise():
    text = panel("loss", rows([None] * 69, range(69)), "loss", 35, 69, 80)
    heights = [
        max(i for i, row in enumerate(field(text)) if row[c : c + 1].strip()) for c in range(69)
    ]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (8, 0)
    assert text.splitlines()[-2].index("▲") == 11 + 34
    assert "·" not in "".join(field(text))


def test_more_than_two_decades_are_drawn_logarithmically():
    powers = [10.0**-i for i in range(5)]
    text = panel("loss", rows(powers, powers), "loss", None, 5)
    assert text.startswith("loss (logarithmic)")
    assert [line.split()[0] for line in text.splitlines() if "┤" in line][::4] == [
        "1",
        "0.01",
        "0.0001",
    ]
    assert "logarithmic" not in panel("loss", rows(powers[:3], [0.0, 1.0, 2.0]), "loss", None, 3)


def test_what_was_not_measured_is_not_drawn():
    assert panel("accuracy", rows([1.0], [1.0]), "metric", 1, 1) == "accuracy: not measured"
    gap = rows([None] * 69, [1.0] * 30 + [math.nan] * 9 + [1.0] * 30)
    assert field(panel("loss", gap, "loss", 1, 69))[-1] == "─" * 30 + " " * 9 + "─" * 30


losses = st.floats(0, 2.0**127, width=32, allow_subnormal=False)
maybe = st.sampled_from([None, math.nan, math.inf]) | losses


@given(st.lists(st.tuples(maybe, maybe), min_size=1, max_size=200), st.integers(60, 120))
def test_any_history_is_drawn_and_judged(figures, width):
    history = rows(*zip(*figures, strict=True))
    text = panel("loss", history, "loss", len(figures), 300, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\n") in (0, 11)
    legible(text, "ascii").encode("ascii")
    verdict(history, len(figures))


def texts(path):
    return " ".join(e.text or "" for e in ET.parse(path).iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")]
)
def test_a_picture_has_the_form_of_its_name_and_always_the_same_bytes(
    registry, tmp_path, name, start
):
    curve = trained(registry, "large")
    picture.picture(tmp_path / name, curve)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    picture.picture(tmp_path / name, curve)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_of_one_run_tells_its_verdict_and_best_epoch(registry, tmp_path):
    curve = trained(registry, "large/seed=1")
    picture.picture(tmp_path / "a.svg", curve)
    told = texts(tmp_path / "a.svg")
    for part in ("large/seed=1", f"best epoch {curve[0][0].best_epoch}", "Overfitting: "):
        assert part in told


def test_a_picture_of_some_runs_names_them_and_of_many_counts_them(registry, tmp_path):
    some = trained(registry, "large") + trained(registry, "slow")
    picture.picture(tmp_path / "some.svg", some)
    picture.picture(tmp_path / "many.svg", some * 3)
    named, counted = texts(tmp_path / "some.svg"), texts(tmp_path / "many.svg")
    assert "slow/seed=1" in named
    assert "slow/seed=1" not in counted
    assert "2 overfitting, 2 still-improving" in named
    assert "6 overfitting, 6 still-improving" in counted
    drawn = (tmp_path / "some.svg").read_text().lower()
    assert all(colour.lower() in drawn for colour in COLOURS[:4])


@pytest.mark.parametrize("name", ["hasty", "one"])
def test_short_and_diverged_runs_have_pictures(registry, tmp_path, name):
    picture.picture(tmp_path / "a.png", trained(registry, name))
    picture.picture(tmp_path / "a.png", trained(registry, f"{name}/seed=0"))


def test_other_forms_and_places_are_refused(registry, tmp_path):
    curve = trained(registry, "one")
    for name in ("a.gif", "png", "a.pgn"):
        with pytest.raises(UsageError, match=r"known: pdf, png, svg"):
            picture.picture(tmp_path / name, curve)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("nowhere/a.png", "file/a.png", "folder.png"):
        with pytest.raises(UsageError, match=r"cannot be written"):
            picture.picture(tmp_path / name, curve)
    with pytest.raises(MismatchError, match=r"accuracy for one/seed=1 and rmse for small/seed=1"):
        picture.picture(tmp_path / "a.png", curve + trained(registry, "small"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_picture_that_fails_leaves_the_earlier_one(registry, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.png"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(UsageError, match=r"No space left"):
        picture.picture(path, trained(registry, "one"))
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_several_runs_are_listed_with_their_verdicts(registry):
    found = trained(registry, "large") + trained(registry, "slow")
    text = curves_text(found, "table")
    assert text.endswith("2 overfitting, 2 still-improving")
    assert drawing.LEGEND not in text
    assert curves_text(found, "csv").splitlines()[1].startswith("large/seed=0,")


def test_a_continued_run_is_judged_by_what_it_trained():
    rows = [{"epoch": i, "train_loss": 1 / i, "val_loss": 1 / i} for i in range(1, 20)]
    rows.append({"epoch": 20, "train_loss": None, "val_loss": None})
    given = {"epoch": 0, "train_loss": None, "val_loss": 2.0}
    assert verdict([given, *rows]) == verdict(rows)
    assert verdict(rows).kind == "diverged"
