"""What strict fairness costs beyond its paths: one step of three paths against three steps of one path each."""

from collections.abc import Sequence

from benchmarks.darts_tricks import Steps
from benchmarks.measure import CPU, Result, alternate, compared, ratios
from benchmarks.training_step import image_arguments
from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.spaces import Gates

PATHS = 3  # the options of every choice of nas_bench_macro


def strict_fairness(rounds: int = 12, batch_size: int = 32, train_size: int = 512) -> Result:
    """On nas_bench_macro: a fair step runs every option of every layer once, and three single steps do the same.

    The single steps are those of SPOS, given the paths of the fair step, since uniform ones may be cheaper or dearer by
    chance.
    """
    images, told = image_arguments(batch_size, train_size)

    def steps(algorithm: str) -> Steps:
        files = ["spaces/nas_bench_macro.yaml", "data/cifar10.yaml", f"algorithms/{algorithm}.yaml"]
        return Steps(resolve(files, [*CPU, *images]))

    fair, single = steps("fairnas"), steps("spos")
    policy = fair.run.module.policy

    def one_by_one(moment: Moment) -> Sequence[Gates]:
        return [policy.propose(moment.at(step=moment.step // PATHS))[moment.step % PATHS]]

    setattr(single.run.module.policy, "propose", one_by_one)  # noqa: B010 - mypy refuses to assign to a method
    single.run.module.steps_seen = PATHS  # both have taken the first step

    def three() -> None:
        for _ in range(PATHS):
            single.take()

    times = alternate(fair.take, three, rounds)
    note = f"nas_bench_macro, {told}: three paths {compared(*times)}"
    return Result.of("strict_fairness", ratios(*times), 1.05, note)
