import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from fleet.models import Move
from fleet.reconciler import apply
from fleet.services import evacuations
from tests.fleet.test_survival_machine import OneAtATime, Survival

orig = evacuations._in_order
MUTANTS = {
    "placed_excluded": lambda m: m.setattr(evacuations, "_in_order", lambda q: orig(q).exclude(moves__state=Move.State.PLACED)),
    "no_finish": lambda m: m.setattr(evacuations, "_finish_losses", lambda: None),
    "none": lambda m: None,
}

@pytest.mark.parametrize("name", MUTANTS)
def test_teeth(name, alice, monkeypatch):
    monkeypatch.setattr(apply, "ThreadPoolExecutor", OneAtATime)
    monkeypatch.setattr(Survival, "owner", alice, raising=False)
    MUTANTS[name](monkeypatch)
    run_state_machine_as_test(Survival, settings=settings(max_examples=50, stateful_step_count=20, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)))
