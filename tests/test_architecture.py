"""The shape of the whole: arrows between rooms, and what rooms look like. Imports are import-linter's part."""

from __future__ import annotations

import pkgutil
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models

import derp_portal

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["accounts", "fleet", "serials", "billing", "resellers"]
"""From the ground up: a room may refer to itself and to those before it."""

ALWAYS_THERE = {"admin", "apps", "models", "selectors", "services", "tasks"}
SAYS_NOTHING = {"common", "core", "helpers", "lib", "misc", "util", "utils"}
LONGEST_README = 15


def first_party_models() -> list[type[models.Model]]:
    return [m for m in apps.get_models(include_auto_created=True) if m._meta.app_label in ROOMS]


def arrows(of: Iterable[type[models.Model]]) -> Iterator[tuple[str, str, str]]:
    """(field, room it is in, room it points to) for every foreign key, one-to-one and many-to-many."""
    for model in of:
        for field in [*model._meta.local_fields, *model._meta.local_many_to_many]:
            target = field.related_model
            if isinstance(target, type) and issubclass(target, models.Model):
                yield f"{model.__name__}.{field.name}", model._meta.app_label, target._meta.app_label


def points_up(source: str, target: str) -> bool:
    return target in ROOMS and ROOMS.index(target) > ROOMS.index(source)


def modules_of(room: str) -> set[str]:
    return {module.name for module in pkgutil.iter_modules([str(ROOT / room)])}


def test_the_order_of_rooms_is_the_one_of_the_import_contract() -> None:
    layers = layers_of_the_contract()
    assert [layer for layer in reversed(layers) if layer in ROOMS] == ROOMS


def test_every_module_of_the_composition_is_named_in_the_import_contract() -> None:
    roof = {name.strip(" ()") for name in layers_of_the_contract()[0].split(" : ")}
    found = {f"derp_portal.{module.name}" for module in pkgutil.iter_modules(derp_portal.__path__)}
    assert found - {"derp_portal.lib"} <= roof


def test_no_foreign_key_points_to_a_room_above() -> None:
    found = list(arrows(first_party_models()))
    assert found, "no relation was found at all, so nothing was checked"
    assert [name for name, source, target in found if points_up(source, target)] == []


def test_the_check_of_arrows_sees_one_that_points_up() -> None:
    assert points_up("accounts", "serials")
    assert not points_up("serials", "accounts")
    assert not points_up("fleet", "fleet")
    assert not points_up("fleet", "sites")


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_in_a_few_lines_what_it_is_for(room: str) -> None:
    lines = (ROOT / room / "README.md").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert 3 <= len(lines) <= LONGEST_README


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_with_tables_has_the_same_files(room: str) -> None:
    if not list(apps.get_app_config(room).get_models()):
        pytest.skip(f"{room} has no tables yet")
    assert modules_of(room) >= ALWAYS_THERE
    assert (ROOT / room / "migrations" / "max_migration.txt").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_has_a_name_that_says_nothing(room: str) -> None:
    assert modules_of(room) & SAYS_NOTHING == set()


def layers_of_the_contract() -> list[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")
