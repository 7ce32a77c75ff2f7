"""The outbox: a message is a row first, written in the transaction of what it tells about, and sent afterwards."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from datetime import timedelta
from smtplib import SMTPRecipientsRefused
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.db.models import F, Q
from django.utils import translation
from django.utils.translation import gettext as _

from accounts import mails
from accounts.models import Notification, User
from accounts.services.audit import record
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 8
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=1)
# Far longer than EMAIL_TIMEOUT: an elapsed claim means that the sender died.
CLAIM = timedelta(minutes=5)


def notify(
    *,
    kind: str,
    dedup_key: str,
    user: User | None = None,
    email: str | None = None,
    context: Mapping[str, Any] | None = None,
    button_url: str = "",
    is_secret: bool = False,
) -> Notification | None:
    """Queue the mail `mail/<kind>.txt` for `user`, or for the address `email`; None when `dedup_key` was used before.

    Rendered now, in the recipient's language and time zone; `user` and `context` are in the template's context. Safe
    inside a transaction: nothing is sent unless it commits. `button_url` may be a path. `is_secret` says that the mail
    opens the account: nobody but its reader sees it. Raises ValueError without a recipient.
    """
    if Notification.objects.filter(dedup_key=dedup_key).exists():
        return None
    language = language_of(user)
    mail = mails.render(
        f"mail/{kind}.txt",
        {"user": user, **(context or {})},
        language=language,
        zone=user.zone if user else ZoneInfo(settings.TIME_ZONE),
        button_url=button_url,
    )
    return queue_mail(
        mail=mail, kind=kind, dedup_key=dedup_key, user=user, email=email, language=language, is_secret=is_secret
    )


def queue_mail(
    *,
    mail: mails.Mail,
    kind: str,
    dedup_key: str,
    language: str,
    user: User | None = None,
    email: str | None = None,
    is_secret: bool = False,
    is_urgent: bool = True,
) -> Notification | None:
    """Put a composed mail into the outbox and wake a sender after commit; None when `dedup_key` was used before.

    One that is not urgent is left to the sweep: thousands of wake-ups would stand before all other work.
    """
    recipient = email or (user.email if user else "")
    if not recipient:
        raise ValueError("a notification needs a user or an e-mail address")
    notification, is_new = Notification.objects.get_or_create(
        dedup_key=dedup_key,
        defaults={
            "user": user,
            "recipient": recipient,
            "kind": kind,
            "language": language,
            "subject": mail.subject,
            "body_text": mail.text,
            "body_html": mail.html,
            "is_secret": is_secret,
        },
    )
    if not is_new:
        return None
    if is_urgent:
        _wake(notification.pk)
    return notification


def withdraw_mail(*, dedup_key: str) -> bool:
    """Drop a message that waits to be sent: what it says has changed. False when nobody waits for it any more."""
    return bool(Notification.objects.filter(dedup_key=dedup_key, status=Notification.Status.QUEUED).delete()[0])


def withdraw_mails(*, prefix: str) -> int:
    """Send no more of the messages whose `dedup_key` begins so; how many are dropped. One that is being sent at this
    moment may still arrive, and is not tried again if it does not.
    """
    mails_of_it = Notification.objects.filter(dedup_key__startswith=prefix)
    mails_of_it.filter(status=Notification.Status.SENDING).update(is_withdrawn=True)
    unsent = [Notification.Status.QUEUED, Notification.Status.FAILED]
    return mails_of_it.filter(status__in=unsent).delete()[0]


def send_message(*, actor: User, user: User, subject: str, body: str) -> Notification:
    """Send an operator's own words to `user`. Raises PortalError when the subject or the body is empty."""
    if not subject.strip() or not body.strip():
        raise PortalError(_("A message needs a subject and a text."), code="invalid_input", status=422)
    language = language_of(user)
    with translation.override(language), transaction.atomic():
        reason = _("You get this mail because the people who run this portal wrote to you.")
        notification = queue_mail(
            mail=mails.compose(mails.Draft(subject, mails.paragraphs(body), reason=reason)),
            kind="message",
            dedup_key=f"message:{uuid.uuid4()}",
            user=user,
            language=language,
        )
        assert notification is not None
        record(actor=actor, event="notification.written", target=user, subject=notification.subject)
    return notification


def resend(*, notification_id: int, actor: User | None) -> bool:
    """Try a failed message again, from its first attempt. False when it had not failed, or was erased as a secret."""
    with transaction.atomic():
        revived = Notification.objects.filter(
            pk=notification_id, status=Notification.Status.FAILED, is_secret=False, is_withdrawn=False
        ).update(status=Notification.Status.QUEUED, attempts=0, next_attempt_at=clock.now(), last_error="")
        if revived:
            record(actor=actor, event="notification.resent", target=Notification.objects.get(pk=notification_id))
            _wake(notification_id)
    return bool(revived)


def deliver(*, notification_id: int) -> bool:
    """Send one message if it is due and nobody else is sending it; True when it was sent now.

    A failure is kept in the row and tried again later, with growing pauses, then given up. When a sender dies between
    sending and saying so, the message goes out again with the same Message-ID.
    """
    notification = _claim(notification_id)
    if notification is None:
        return False
    if notification.attempts > MAX_ATTEMPTS:
        _finish(notification, status=Notification.Status.FAILED, last_error="Every sender died on this message.")
        return False
    try:
        _send(notification)
    except Exception as error:  # noqa: BLE001 - a mail backend may raise anything; the row keeps what it was
        log.warning("mail_failed", notification=notification_id, attempt=notification.attempts, error=repr(error))
        if notification.attempts >= MAX_ATTEMPTS or _is_hopeless(error):
            _finish(notification, status=Notification.Status.FAILED, last_error=repr(error))
        else:
            next_attempt_at = clock.now() + back_off(notification.attempts)
            _finish(
                notification,
                status=Notification.Status.QUEUED,
                last_error=repr(error),
                next_attempt_at=next_attempt_at,
            )
        return False
    _finish(notification, status=Notification.Status.SENT, last_error="", sent_at=clock.now())
    return True


def deliver_due(*, limit: int = 100) -> int:
    """Send what is due, oldest first, at most `limit` messages; the number sent. Several may run at once."""
    due = Notification.objects.filter(_is_due()).order_by("next_attempt_at", "pk").values_list("pk", flat=True)
    return sum(deliver(notification_id=pk) for pk in list(due[:limit]))


def back_off(attempts: int) -> timedelta:
    """The pause after that many attempts: doubling from 30 s to an hour, half of it by chance, so that a mail server
    which comes back is not met by everything at once.
    """
    longest: timedelta = min(FIRST_DELAY * int(2 ** (attempts - 1)), LONGEST_DELAY)
    return longest * random.uniform(0.5, 1.0)


def language_of(user: User | None) -> str:
    """The language to write to `user` in: their own, else that of the present request; for staff, the operator's."""
    # What staff are told is mostly of somebody else's doing, and so is the request.
    if user and user.is_staff and not user.language:
        return settings.LANGUAGE_CODE
    return (user.language if user else "") or translation.get_language() or settings.LANGUAGE_CODE


def _wake(notification_id: int) -> None:
    from accounts.tasks import deliver_notification  # Tasks call services; only this wake-up calls back.

    # Robust: with the broker away, the request must still succeed. The sweep finds the row.
    transaction.on_commit(lambda: deliver_notification.delay(notification_id), robust=True)


def _is_due() -> Q:
    now = clock.now()
    queued = Q(status=Notification.Status.QUEUED, next_attempt_at__lte=now)
    abandoned = Q(status=Notification.Status.SENDING, claimed_until__lte=now)
    # The first condition is that of the partial index.
    unsent = Q(status__in=[Notification.Status.QUEUED, Notification.Status.SENDING])
    return unsent & (queued | abandoned) & Q(is_withdrawn=False)


def _claim(notification_id: int) -> Notification | None:
    """Take the message for ourselves. One UPDATE decides: of two senders exactly one sees a changed row."""
    claimed = Notification.objects.filter(_is_due(), pk=notification_id).update(
        status=Notification.Status.SENDING, claimed_until=clock.now() + CLAIM, attempts=F("attempts") + 1
    )
    return Notification.objects.get(pk=notification_id) if claimed else None


def _finish(notification: Notification, *, status: Notification.Status, **fields: Any) -> None:
    if notification.is_secret and status != Notification.Status.QUEUED:
        fields |= {"body_text": "", "body_html": ""}
    # Only our own claim: if it elapsed and somebody took over, their word counts. Attempts name the claim.
    Notification.objects.filter(
        pk=notification.pk, status=Notification.Status.SENDING, attempts=notification.attempts
    ).update(status=status, claimed_until=None, **fields)


def _send(notification: Notification) -> None:
    message = EmailMultiAlternatives(
        subject=notification.subject,
        body=notification.body_text,
        to=[notification.recipient],
        headers={"Message-ID": _message_id(notification), "Auto-Submitted": "auto-generated"},
    )
    if notification.body_html:
        message.attach_alternative(notification.body_html, "text/html")
    message.send()


def _message_id(notification: Notification) -> str:
    """The same for every attempt, so that a mail server or program drops doubles."""
    written = f"{notification.created_at.timestamp():.6f}"
    return f"<{written}.{notification.pk}.{settings.PORTAL_ID}@{settings.ALLOWED_HOSTS[0]}>"


def _is_hopeless(error: Exception) -> bool:
    """Whether the mail server said for good that there is no such recipient."""
    return isinstance(error, SMTPRecipientsRefused) and all(code >= 500 for code, _text in error.recipients.values())
