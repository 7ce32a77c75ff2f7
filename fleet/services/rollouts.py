"""Placeholder until the real one lands."""


def advance_rollout() -> None:
    return None
