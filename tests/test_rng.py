"""Keyed randomness: a pure function of the key, and nothing outside its block."""

import subprocess
import sys

import pytest
import torch

from nastricks.moment import Moment
from nastricks.rng import forked_rng, generator, key_seed


def test_seeds_are_functions_of_the_key() -> None:
    assert key_seed(0, 5, "path") == key_seed(0, 5, "path")
    keys: list[tuple[object, ...]] = [
        (0, 5, "path"), (0, 5, "mixup"), (5, 0, "path"), (0, "5", "path"), (0, 5), (0, (5, "path")), (0.0, 5, "path"),
        (5, "path"), ((0, 5), "path"), ("0, 5, path",), (),
    ]  # fmt: skip
    seeds = {key_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_process() -> None:
    """Python's own hash of strings differs from process to process; these may not."""
    code = "from nastricks.rng import key_seed; print(key_seed(3, 'path', (1, 2.5)))"
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) == key_seed(3, "path", (1, 2.5))


def test_neighbouring_keys_are_independent() -> None:
    draws = torch.stack([torch.randn(200, generator=generator(0, step, "path")) for step in range(50)])
    correlations = torch.corrcoef(draws) - torch.eye(50)
    assert float(correlations.abs().max()) < 5.5 / 200**0.5


def test_generators_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = torch.rand(3, generator=generator("a"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(3, generator=generator("a")), first)


def test_a_fork_is_keyed_and_puts_the_state_back_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with forked_rng(1, "weights"):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    with forked_rng(1, "weights"):
        assert torch.equal(torch.rand(3), first)
    with forked_rng(2, "weights"):
        assert not torch.equal(torch.rand(3), first)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), forked_rng(1):
        torch.randperm(5).view(2)  # draws, then fails
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_a_moment_are_shared_by_ranks_unless_they_are_a_samples_own() -> None:
    now = Moment(role="weights", seed=0, step=3)

    def draw(moment: Moment, *, per_sample: bool) -> float:
        return float(torch.rand((), generator=moment.generator("x", per_sample=per_sample)))

    for changes in ({"rank": 1}, {"micro_batch": 1}):
        assert draw(now, per_sample=False) == draw(now.at(**changes), per_sample=False)
        assert draw(now, per_sample=True) != draw(now.at(**changes), per_sample=True)
    for changes in ({"step": 4}, {"seed": 1}, {"gate_set": 1}):
        for per_sample in (False, True):
            assert draw(now, per_sample=per_sample) != draw(now.at(**changes), per_sample=per_sample)
    # A second pass with another role [an attack, the policy's step] sees the same sample.
    assert draw(now, per_sample=True) == draw(now.at(role="policy"), per_sample=True)
