"""Everything that changes what was granted: serials, leases, terms."""

from .activation import How, activate, preview, redeem
from .leases import (
    close_account,
    end_lease,
    present_and_next_term,
    release_relay,
    rename_lease,
    renew_lease,
    renew_user,
    start_next_term,
)
from .notices import send_notice
from .numbers import generate, revoke_serials
from .sweeps import (
    advance_terms,
    compensate_outages,
    expire_leases,
    expire_serials,
    release_ended_leases,
    send_reminders,
)
from .taking_back import Taken, TakenBack, Unserved, take_back, unserved_of
from .verification import verify_binding

__all__ = [
    "How",
    "Taken",
    "TakenBack",
    "Unserved",
    "activate",
    "advance_terms",
    "close_account",
    "compensate_outages",
    "end_lease",
    "expire_leases",
    "expire_serials",
    "generate",
    "present_and_next_term",
    "preview",
    "redeem",
    "release_ended_leases",
    "release_relay",
    "rename_lease",
    "renew_lease",
    "renew_user",
    "revoke_serials",
    "send_notice",
    "send_reminders",
    "start_next_term",
    "take_back",
    "unserved_of",
    "verify_binding",
]
