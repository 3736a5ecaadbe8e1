"""What a person sees of runs that several workers train."""

from io import StringIO

from rich.console import Console

from zoo.config import parse
from zoo.planning import plan
from zoo.progress import Progress
from zoo.registry import Registry
from zoo.registry.records import Batch, Outcome
from zoo.training import Begun, Surveyed


def test_the_runs_of_all_workers_are_one_display(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.progress.LINE_S", -1.0)
    asked = plan(parse({"data": {"ref": "iris"}, "seeds": 4, "train": {"epochs": 10}}))
    out = StringIO()
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "b") as registry, Progress(
        Console(file=out, width=200, highlight=False, markup=False)
    ) as progress:  # fmt: skip
        runs = registry.add(asked.requests)
        progress(Begun(asked, runs, runs))
        one, two, *_ = [run.id for run in runs]
        told = [{"run_id": key, "epoch": epoch} for key in (one, two) for epoch in (1, 2, 3)]
        registry.write(Batch([one, two], told))
        progress(Surveyed(registry.standings("iris-mlp"), 2))
        registry.write(Batch(outcomes=[Outcome(run_id=one, status="finished", epochs=3)]))
        for _ in range(2):
            progress(Surveyed(registry.standings("iris-mlp"), 1))
    lines = out.getvalue().splitlines()
    assert "0 done, 2 training | 2 waiting | 2 workers | 6 epochs" in lines[-4]
    assert lines[-3] == "iris-mlp/seed=0 finished after 3 epochs"
    assert "1 done, 1 training | 2 waiting | 1 worker | 6 epochs" in lines[-2]
    assert out.getvalue().count("finished") == 1
