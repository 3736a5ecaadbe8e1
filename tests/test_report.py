"""The report tells what the comparison tells, escapes every name, and asks for nothing."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cli import main
from ensemble import combine, compare
from ensemble.charts import cost_plot, intervals_plot, near, pareto
from ensemble.plots import Scale
from ensemble.report import html, write
from zoo import Registry, parse, plan, train_many
from zoo.errors import UsageError

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\u202e&amp;"
VOID = {"meta", "link", "br", "img"}


class Outline(HTMLParser):
    """Every element with its attributes, the texts, and whether all are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def made(folder, ref, seeds=4, metric=None, **others):
    """A comparison and the histories of its members."""
    asked = {"data": {"ref": ref}, "seeds": seeds, "model": {"hidden": [8]}, **others}
    asked.setdefault("train", {"epochs": 12})
    with Registry(f"sqlite:///{folder}/r.db", folder / "b") as registry:
        runs = train_many(plan(parse(asked)), registry)
        combine(registry, runs, "predictions")
        combine(registry, runs, "weights", method="uniform")
        comparison = compare(registry, registry.runs(), metric=metric)
        return comparison, {run.id: registry.history(run.id) for run in runs}


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    return made(tmp_path_factory.mktemp("iris"), "iris")


@pytest.mark.parametrize("ref", ["iris", "diabetes"])
def test_every_number_of_the_comparison_is_in_the_report(tmp_path, ref):
    comparison, histories = made(tmp_path, ref, seeds=3)
    page = html(comparison, histories)
    outline = Outline(page)
    assert outline.open == []
    text = " ".join(outline.texts)
    for row in comparison.rows:
        assert f"{row.test:.4f}" in text or f"{row.test:.4g}" in text
    for sentence in comparison.verdict:
        assert sentence in text
    figures = [attributes["id"] for tag, attributes in outline.elements if tag == "figure"]
    expected = ["test", "growth", "cost", "reliability", "curves", "similarity"]
    assert figures == [key for key in expected if ref == "iris" or key != "reliability"]
    tables = [tag for tag, _ in outline.elements if tag == "table"]
    assert len(tables) == 1 + len(figures)


def test_the_report_asks_for_nothing_and_runs_only_its_own_script(iris):
    page = html(*iris)
    outline = Outline(page)
    for tag, attributes in outline.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("style", "src", "srcset")
            if name == "href":
                assert (tag, value) == ("link", "data:,")
    assert [tag for tag, _ in outline.elements].count("script") == 1
    assert not re.search(r"https?:|url\(|@import", page)
    policy = next(a["content"] for t, a in outline.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_hostile_names_are_text(iris):
    comparison, histories = iris
    rows = [replace(row, name=EVIL + row.name) for row in comparison.rows]
    singles = [replace(run, name=EVIL) for run in comparison.singles]
    hostile = replace(
        comparison,
        data=EVIL,
        baseline=rows[0].name,
        rows=rows,
        singles=singles,
        verdict=[EVIL for _ in comparison.verdict],
        reliability={EVIL + name: bins for name, bins in comparison.reliability.items()},
    )
    clean, outline = Outline(html(*iris)), Outline(html(hostile, histories))
    assert [tag for tag, _ in outline.elements] == [tag for tag, _ in clean.elements]
    assert [set(a) for _, a in outline.elements] == [set(a) for _, a in clean.elements]
    text = "".join(outline.texts)
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert "\u202e" not in text


def test_figures_have_words_and_the_table_labels(iris):
    outline = Outline(html(*iris))
    for tag, attributes in outline.elements:
        if tag == "svg" and attributes.get("role") == "img":
            title, says = attributes["aria-labelledby"].split()
            ids = [a.get("id") for _, a in outline.elements]
            assert title in ids
            assert says in ids
        if tag == "td" and "data-value" in attributes:
            assert attributes["data-label"]
    assert dict(outline.elements)["html"]["lang"] == "en"


def test_one_model_has_a_report_too(tmp_path):
    comparison, histories = made(tmp_path, "iris", seeds=1)
    figures = [
        a["id"] for tag, a in Outline(html(comparison, histories)).elements if tag == "figure"
    ]
    assert figures == ["test", "cost", "reliability", "curves"]


def test_a_metric_that_test_rows_leave_undefined_has_a_report_without_its_figures(tmp_path):
    """One class alone among the test rows: there is no area under a curve."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(90, 2)), columns=["a", "b"])
    table["part"] = ["train"] * 40 + ["val"] * 20 + ["test"] * 30
    table["y"] = np.where((table["a"] > 0) | (table["part"] == "test"), "yes", "no")
    table.to_csv(tmp_path / "t.csv", index=False)
    data = {"ref": f"{tmp_path}/t.csv", "target": "y", "split": "column", "part": "part"}
    asked = {"data": data, "seeds": 2, "model": {"hidden": [4]}, "train": {"epochs": 2}}
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "b") as registry:
        runs = train_many(plan(parse(asked)), registry)
        combine(registry, runs, "predictions")
        comparison = compare(registry, registry.runs(), metric=["roc_auc", "accuracy"])
    outline = Outline(html(comparison, {}))
    assert "undefined" in outline.texts
    figures = [attributes["id"] for tag, attributes in outline.elements if tag == "figure"]
    assert figures == ["growth", "reliability", "similarity"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_candidate_without_a_figure_does_not_hide_the_others(iris, value):
    comparison, histories = iris
    last = replace(comparison.rows[-1], test=value, delta=value, ci_low=math.nan, ci_high=math.nan)
    page = html(replace(comparison, rows=[*comparison.rows[:-1], last]), histories)
    assert Outline(page).open == []
    places = re.findall(r'(?:cx|cy|x1|y1|points)="([^"]*)"', page)
    assert places
    assert not [place for place in places if "nan" in place or "inf" in place]


def test_many_members_are_drawn_in_part(iris):
    comparison, histories = iris
    many = [
        replace(run, id=f"{k}-{run.id}", seed=k) for k in range(30) for run in comparison.singles
    ]
    found = comparison.diversity
    wide = replace(
        found,
        disagreement_KK=found.disagreement_KK.repeat(30, 30),
        correlation_KK=found.correlation_KK.repeat(30, 30),
    )
    histories = {run.id: histories[run.id.partition("-")[2]] for run in many}
    page = html(replace(comparison, singles=many, diversity=wide), histories)
    assert page.count("The first 40 of 120.") == 2
    assert len(page) < 2_000_000


def test_a_candidate_far_off_does_not_hide_the_others(iris):
    comparison, _ = iris
    base = comparison.rows[0]
    far = replace(comparison.rows[-1], test=-40.0, delta=-41.0, ci_low=-42.0, ci_high=-40.0)
    undefined = replace(far, test=float("nan"), delta=float("nan"))
    rows = [*comparison.rows[:-1], far, undefined]
    assert far not in near(rows)
    assert base in near(rows)
    for draw in (intervals_plot, cost_plot):
        plot = draw(replace(comparison, rows=rows))
        for shape in plot.shapes:
            for name in ("cx", "x", "x1", "x2"):
                assert 0 <= shape.at.get(name, 0) <= plot.width
            for name in ("cy", "y", "y1", "y2"):
                assert 0 <= shape.at.get(name, 0) <= plot.height


def test_noise_of_a_time_puts_nobody_on_the_front(iris):
    """Two models of one architecture take the same time, whatever was measured."""
    base = iris[0].rows[0]
    told = [
        ("worse", 0.90, 1.00),
        ("better", 0.92, 1.05),
        ("same", 0.92, 1.06),
        ("dear", 0.95, 3.0),
    ]
    rows = [replace(base, name=n, test=t, inference_ms_256=ms) for n, t, ms in told]
    assert [row.name for row in pareto(rows, 1)] == ["better", "dear"]
    assert [row.name for row in pareto(rows, -1)] == ["worse"]


@pytest.mark.parametrize("low", [1e-9, 0.97, 3.0, 12345.0, 1e7])
@pytest.mark.parametrize("ratio", [1.0001, 1.02, 3.0, 1e6])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_every_scale_has_a_few_ticks_within_it(low, ratio, logarithmic):
    scale = Scale(low, low * ratio, 0, 100, logarithmic)
    assert all(-0.1 <= place <= 100.1 for place, _ in scale.ticks)
    labels = [label for _, label in scale.ticks]
    assert len(set(labels)) == len(labels) <= 20
    assert len(labels) >= 2 or (logarithmic and ratio < 1.1)
    assert ratio < 1.01 or max(map(len, labels), default=0) <= 6  # for which there is room


def test_epochs_are_whole_numbers():
    assert [label for _, label in Scale(0.9, 3.1, 0, 1, whole=True).ticks] == ["1", "2", "3"]


def test_the_command_writes_the_report_and_the_table(iris, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    train = ["train-many", "--data", "iris", "--seeds", "2", "--set", "train.epochs=2"]
    assert runner.invoke(main, train).exit_code == 0
    result = runner.invoke(main, ["compare", "--html", "report.html"])
    assert result.exit_code == 0, result.output
    assert "report: report.html" in result.stderr
    assert "best single" in result.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "looked at once" in re.sub(r"\s+", " ", page)


def test_a_report_that_cannot_be_written_leaves_nothing(iris, tmp_path):
    comparison, registry = (
        replace(iris[0], singles=[], diversity=None),
        Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "b"),
    )
    with registry, pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "missing" / "report.html", registry, comparison)
    assert [path.name for path in tmp_path.glob("**/*report*")] == []
