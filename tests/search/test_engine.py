"""Engines: tasks in this process, and in Ray workers that may die."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nastricks.errors import InputError
from nastricks.search.engine import InProcess, Lost, RayWorkers, Stopwatch, engine


def test_in_process_runs_one_task_after_another_and_hands_results_over_as_they_come() -> None:
    seen: list[int] = []

    def double(number: int) -> int:
        seen.append(number)
        return 2 * number

    results = InProcess().run(double, [3, 1, 2])
    assert next(results) == (3, 6)
    assert seen == [3]  # the next task starts when its result is asked for
    assert list(results) == [(1, 2), (2, 4)]


def test_which_engine_the_command_line_asks_for() -> None:
    assert isinstance(engine(None, None), InProcess)
    two = engine(2, None)
    assert isinstance(two, RayWorkers)
    assert (two.workers, two.address) == (2, None)
    cluster = engine(None, "ray://somewhere:1")
    assert isinstance(cluster, RayWorkers)
    assert (cluster.workers, cluster.address) == (1, "ray://somewhere:1")
    with pytest.raises(InputError, match="--workers is -1: expected at least 1"):
        engine(-1, None)


def test_a_stopwatch_goes_forward() -> None:
    watch = Stopwatch()
    first = watch.seconds()
    assert 0 <= first <= watch.seconds()


@pytest.fixture
def mortal(tmp_path: Path) -> Callable[[str], str]:
    """A task that dies as often as its name says, then tells its process."""

    def run(task: str) -> str:  # local, so that workers get it by value
        import os
        from pathlib import Path

        mark = Path(folder) / task
        deaths = mark.read_text() if mark.exists() else ""
        if len(deaths) < int(task.partition(" ")[0]):
            mark.write_text(deaths + "x")
            os._exit(1)
        return str(os.getpid())

    folder = str(tmp_path)
    return run


@pytest.mark.xdist_group("ray")
def test_ray_workers_persist_and_are_replaced_when_they_die(
    mortal: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nastricks[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for every other test
    monkeypatch.setattr("nastricks.search.engine.ATTEMPTS", 2)  # each death costs the start of a worker
    tasks = ["0 a", "0 b", "2 dies always", "0 c"]
    with closing(RayWorkers(1)) as workers:
        results = dict(workers.run(mortal, tasks))
    assert list(results) == tasks  # one worker keeps the order
    lost = results["2 dies always"]
    assert isinstance(lost, Lost)
    assert "died 2 times" in lost.reason
    assert (tmp_path / "2 dies always").read_text() == "xx"
    assert results["0 a"] == results["0 b"]
    assert len({results["0 a"], results["0 c"], str(os.getpid())}) == 3


@pytest.mark.xdist_group("ray")
def test_a_cluster_that_does_not_answer_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nastricks[ray]'")
    with pytest.raises(InputError, match="no Ray cluster answers at nonsense://x") as refusal:
        list(RayWorkers(1, "nonsense://x").run(str, [1]))
    assert "\n" not in str(refusal.value)
