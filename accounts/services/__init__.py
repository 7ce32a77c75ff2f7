"""Every write of this room. Import from here: `from accounts.services import record, notify`."""

from __future__ import annotations

from accounts.services.announcements import (
    change_announcement,
    close_announcement,
    mail_announcement,
    publish_announcement,
    withdraw_announcement,
    write_announcements,
)
from accounts.services.audit import record
from accounts.services.browsers import forget_browsers, note_browser
from accounts.services.failures import forget_failures, note_failure
from accounts.services.outbox import (
    deliver,
    deliver_due,
    language_of,
    notify,
    queue_mail,
    resend,
    send_message,
    withdraw_mail,
    withdraw_mails,
)
from accounts.services.people import (
    change_role,
    deactivate_user,
    end_sessions,
    forget_sessions,
    note_new_password,
    reactivate_user,
    register,
    set_rental_expiry,
    signed_up,
    take_signup_ref,
    update_profile,
)
from accounts.services.tickets import (
    add_note,
    close_ticket,
    follow_subject,
    open_ticket,
    pass_on,
    pass_on_overdue,
    reply,
)
from accounts.services.tokens import authenticate_token, issue_token, log_in, revoke_token

__all__ = [
    "add_note",
    "authenticate_token",
    "change_announcement",
    "change_role",
    "close_announcement",
    "close_ticket",
    "deactivate_user",
    "deliver",
    "deliver_due",
    "end_sessions",
    "follow_subject",
    "forget_browsers",
    "forget_failures",
    "forget_sessions",
    "issue_token",
    "language_of",
    "log_in",
    "mail_announcement",
    "note_browser",
    "note_failure",
    "note_new_password",
    "notify",
    "open_ticket",
    "pass_on",
    "pass_on_overdue",
    "publish_announcement",
    "queue_mail",
    "reactivate_user",
    "record",
    "register",
    "reply",
    "resend",
    "revoke_token",
    "send_message",
    "set_rental_expiry",
    "signed_up",
    "take_signup_ref",
    "update_profile",
    "withdraw_announcement",
    "withdraw_mail",
    "withdraw_mails",
    "write_announcements",
]
