"""Rows that are written once: history that no code path may rewrite."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models


class Unchangeable(TypeError):
    """Somebody tried to change or delete what may only be added to."""

    def __init__(self, model: type[models.Model]) -> None:
        super().__init__(f"{model.__name__} rows are append-only")


class AppendOnlyQuerySet(models.QuerySet[Any]):
    """Reading and adding; nothing else."""

    def bulk_update(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Always refused."""
        raise Unchangeable(self.model)

    def update(self, **_fields: Any) -> NoReturn:
        """Always refused."""
        raise Unchangeable(self.model)

    def delete(self) -> NoReturn:
        """Always refused."""
        raise Unchangeable(self.model)

    def forget(self) -> int:
        """Drop rows that are kept no longer; how many. For sweeps that keep to a stated time, and nobody else."""
        return super().delete()[0]


class AppendOnly(models.Model):
    """Changing or deleting one of the rows, or many at once, raises Unchangeable."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the row; refused when it was saved before."""
        if not self._state.adding:
            raise Unchangeable(type(self))
        # A row made by hand with a known id would otherwise be written over the one that has it.
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Always refused."""
        raise Unchangeable(type(self))
