"""Making 100,000 serials against inserting as many bare rows."""

from __future__ import annotations

from django.db import transaction

from bench.report import line, median_seconds
from serials.codes import LENGTH
from serials.models import Plan, SerialBatch, SerialNumber
from serials.services import generate

COUNT = 100_000


def measure() -> None:
    """Both write the same table; the bare one with codes that cost nothing to make."""
    plan = Plan.objects.get(code="30-days")

    def bare() -> None:
        with transaction.atomic():
            batch = SerialBatch.objects.create(plan=plan, duration_days=30, count=COUNT)
            SerialNumber.objects.bulk_create(
                (
                    SerialNumber(code=f"{number:0{LENGTH}d}", batch=batch, plan=plan, duration_days=30)
                    for number in range(COUNT)
                ),
                batch_size=5000,
            )

    baseline = median_seconds([bare])
    ours = median_seconds([lambda: generate(count=COUNT, plan=plan, actor=None)])
    line(f"generate {COUNT:,} serials", ours, baseline, "bare bulk insert")
