# SPDX-License-Identifier: Apache-2.0
"""The loop: resumption, averaging, budgets."""

import pytest
import torch

from diffusers_show1.training.loop import FitOptions, fit, learning_rate_at


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

    checkpoint = tmp_path / "state.ckpt"
    with pytest.raises(Stop):  # checkpoints every step; the run dies in step 17
        fit(half, interrupted, FitOptions(steps=30, checkpoint_seconds=0), checkpoint, log=silent)
    resumed, resumed_loss_at = make()
    for parameter in resumed.parameters():
        parameter.data.zero_()  # whatever it starts from, the checkpoint decides
    steps = []
    fit(
        resumed,
        lambda step: (steps.append(step), resumed_loss_at(step))[1],
        FitOptions(steps=30),
        checkpoint,
        log=silent,
    )
    assert steps == list(range(17, 30))
    for expected, actual in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, actual)


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
