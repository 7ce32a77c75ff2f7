"""Secrets: making, hashing and keeping them encrypted at rest."""

from __future__ import annotations

import hashlib
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from encrypted_fields.fields import EncryptedFieldMixin, EncryptedTextField


def new_secret(nbytes: int = 32) -> str:
    """A URL-safe random secret of `nbytes` bytes."""
    return secrets.token_urlsafe(nbytes)


def fingerprint(secret: str) -> str:
    """Hex SHA-256 of a high-entropy secret, to find it again without keeping it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing(EncryptedFieldMixin):
    """Encrypt with the first of `settings.FIELD_KEYS`, decrypt with any: so the key can be rotated."""

    @cached_property
    def keys(self) -> list[bytes]:
        return [key.encode() for key in settings.FIELD_KEYS]


if TYPE_CHECKING:
    # The package has no types: tell the checker that such a field reads and writes like any text.
    class SecretTextField(models.TextField[Any, Any]): ...
else:

    class SecretTextField(KeyRing, EncryptedTextField):
        """Text encrypted at rest with the key ring. Cannot be searched; keep a `fingerprint` beside it for that."""
