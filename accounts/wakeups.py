"""Signals to the rooms above: something may be there to be read. Only wake-ups; the rows are the truth."""

from django.dispatch import Signal

signed_up_with_a_reference = Signal()
"""Sent in the transaction of a sign-up that brought a reference along; `user` is who."""
