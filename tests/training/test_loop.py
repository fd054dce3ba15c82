# SPDX-License-Identifier: Apache-2.0
"""The loop: resumption, averaging, budgets, accumulation, and checkpoints that are complete or not there."""

import math
import os
import signal

import pytest
import torch
from accelerate import Accelerator

from diffusers_show1.training.checkpoint import checkpoints, read_checkpoint, write_checkpoint
from diffusers_show1.training.loop import FitOptions, Interrupted, Training, fit, learning_rate_at


def make() -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :1] + x[:, 1:2]).square().mean()

    return model, loss_at


def silent(_line: str) -> None:
    pass


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, loss_at = make()
    fit(whole, loss_at, FitOptions(steps=30), log=silent)

    class Stop(Exception):
        pass

    half, half_loss_at = make()

    def interrupted(step: int) -> torch.Tensor:
        if step == 17:
            raise Stop
        return half_loss_at(step)

    with pytest.raises(Stop):  # checkpoints every step; the run dies in step 17
        fit(half, interrupted, FitOptions(steps=30, checkpoint_seconds=0), tmp_path, log=silent)
    resumed, resumed_loss_at = make()
    for parameter in resumed.parameters():
        parameter.data.zero_()  # whatever it starts from, the checkpoint decides
    steps = []
    fit(
        resumed,
        lambda step: (steps.append(step), resumed_loss_at(step))[1],
        FitOptions(steps=30),
        tmp_path,
        log=silent,
    )
    assert steps == list(range(17, 30))
    for expected, actual in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves(tmp_path, signum):
    model, loss_at = make()
    before = signal.getsignal(signum)

    def asked(step: int) -> torch.Tensor:
        if step == 3:
            os.kill(os.getpid(), signum)
        return loss_at(step)

    lines = []
    with pytest.raises(Interrupted) as stopped:
        fit(model, asked, FitOptions(steps=30), tmp_path, log=lines.append)
    assert stopped.value.code == 128 + signum
    assert [step for step, _ in checkpoints(tmp_path)] == [4]
    assert "goes on from there" in lines[-1]
    assert signal.getsignal(signum) == before


def test_training_lowers_the_loss_and_exports_averaged_weights():
    model, loss_at = make()
    before = loss_at(999).item()
    exported = []
    fit(
        model,
        loss_at,
        FitOptions(steps=150, learning_rate=1e-2, ema_decay=0.9),
        on_checkpoint=lambda m: exported.append([p.clone() for p in m.parameters()]),
        log=silent,
    )
    assert loss_at(999).item() < 0.5 * before
    assert len(exported) == 1
    assert all(torch.equal(a, b) for a, b in zip(exported[0], model.parameters(), strict=True))


def test_parts_of_a_step_make_the_step():
    data = torch.randn(5, 8, 4, generator=torch.Generator().manual_seed(1))

    def trained(parts: int) -> tuple[torch.nn.Module, list[float]]:
        model, _ = make()
        training, losses = Training(model, FitOptions(steps=5), Accelerator(cpu=True)), []

        def loss(network: torch.nn.Module, step: int, part: int) -> torch.Tensor:
            x = data[step].chunk(parts)[part]
            return (network(x) - x[:, :1]).square().mean()

        training.run(loss, parts, report=lambda done: losses.append(done.loss))
        return model, losses

    (once, loss_once), (four, loss_four) = trained(1), trained(4)
    assert loss_four == pytest.approx(loss_once, rel=1e-5)
    for expected, actual in zip(once.parameters(), four.parameters(), strict=True):
        assert torch.allclose(expected, actual, atol=1e-6)


def test_frozen_parameters_stay_and_are_in_no_checkpoint(tmp_path):
    model, loss_at = make()
    frozen = model[0].weight.detach().clone()
    fit(model, loss_at, FitOptions(steps=3), tmp_path, parameters=model[2].parameters(), log=silent)
    assert torch.equal(model[0].weight, frozen)
    state = read_checkpoint(checkpoints(tmp_path)[-1][1])
    assert set(state["model"]) == {"2.weight", "2.bias"}


def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_the_weights():
    model, loss_at = make()
    with pytest.raises(FloatingPointError, match="the loss of step 2 is nan"):
        fit(model, lambda step: loss_at(step) * (math.nan if step == 2 else 1), FitOptions(steps=5), log=silent)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_dropout_is_the_same_again_after_resuming(tmp_path):
    def run(steps: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

        def loss_at(step: int) -> torch.Tensor:
            if step == steps:
                raise InterruptedError
            return model(torch.ones(2, 4)).square().mean()

        try:
            fit(model, loss_at, FitOptions(steps=6, dropout=True, checkpoint_seconds=0), tmp_path / "c", log=silent)
        except InterruptedError:
            return []
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = run(6)
    for path in (tmp_path / "c").iterdir():
        path.rename(tmp_path / f"old-{path.name}")
    assert run(3) == []
    assert all(torch.equal(a, b) for a, b in zip(whole, run(6), strict=True))


def test_budget_in_minutes_ends_the_run():
    model, loss_at = make()
    steps = []
    fit(model, lambda step: (steps.append(step), loss_at(step))[1], FitOptions(minutes=0.002), log=silent)
    assert len(steps) > 1


def test_exactly_one_budget():
    with pytest.raises(ValueError, match="either steps or minutes"):
        FitOptions()
    with pytest.raises(ValueError, match="either steps or minutes"):
        FitOptions(steps=1, minutes=1)


def test_learning_rate_schedule():
    options = FitOptions(steps=1000, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate_at(step, step / 1000, options) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1, abs=1e-3)
    assert max(rates) == pytest.approx(1.0, abs=1e-2)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_only_complete_checkpoints_count_and_only_the_newest_are_kept(tmp_path):
    assert checkpoints(tmp_path / "nothing") == []
    for step in (9, 10, 100):
        (tmp_path / ".partial-00000777").mkdir(exist_ok=True)  # what a run leaves that is killed while it writes
        write_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [10, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    assert read_checkpoint(checkpoints(tmp_path)[-1][1]) == {"step": 100}
