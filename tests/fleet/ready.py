"""What the fork server of `tests/fleet/doomed.py` loads before it is asked for a worker; nobody else imports it."""

from __future__ import annotations

import django

django.setup()

import billing.tasks  # noqa: E402, F401
import fleet.reconciler.loop  # noqa: E402
import fleet.tasks  # noqa: E402, F401
import resellers.tasks  # noqa: E402, F401
import serials.tasks  # noqa: E402, F401
