"""Where allauth meets this portal: its mail goes through our outbox, its client address is the one we trust."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.template.loader import TemplateDoesNotExist, get_template
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext as _

from accounts import mails, services
from accounts.device_cookie import browser_of
from accounts.models import LANGUAGES, User
from accounts.selectors import user_by_address

if TYPE_CHECKING:
    from allauth.account.forms import SignupForm
    from allauth.account.models import EmailConfirmationMixin

# What the rooms above put there is kept with a sign-up; they know what it means.
SIGNUP_REF_COOKIE = "ref"
# What the button of each mail opens.
LINKS = ("activate_url", "password_reset_url", "signup_url")


class AccountAdapter(DefaultAccountAdapter):
    """allauth's hooks. Rules live in services; this only translates."""

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Queue one of allauth's mails: in our words when `mail/<name>.txt` exists, else in its own."""
        kind = template_prefix.rsplit("/", 1)[-1]
        user = context.get("user") or user_by_address(email)
        options: dict[str, Any] = {"user": user, "email": email, "dedup_key": f"{kind}:{uuid.uuid4()}"}
        # They carry links that open the account, and nobody else needs to read the others either.
        options |= {"kind": kind, "is_secret": True}
        if self._has_own_words(kind):
            link = next((context[name] for name in LINKS if context.get(name)), "")
            # Under PUBLIC_URL, never under the Host header that somebody sent.
            services.notify(**options, context=context, button_url=mails.path_of(link))
            return
        language = services.language_of(user)
        with translation.override(language):
            site = {"name": _("DERP Portal"), "domain": urlsplit(settings.PUBLIC_URL).netloc}
            message = self.render_mail(template_prefix, email, {"email": email, "current_site": site, **context})
            paragraphs = [part.strip() for part in str(message.body).split("\n\n") if part.strip()]
            mail = mails.compose(mails.Draft(message.subject, paragraphs))
        services.queue_mail(**options, mail=mail, language=language)

    def save_user(self, request: HttpRequest, user: User, form: SignupForm, commit: bool = True) -> User:
        """Keep the language the person signed up in, so that mail speaks it too, and their browser's time zone."""
        language = translation.get_language()
        user.language = language if language in dict(LANGUAGES) else ""
        user.timezone = form.cleaned_data.get("timezone") or ""
        user.signup_ref = request.COOKIES.get(SIGNUP_REF_COOKIE, "")[:200]
        # Both rows or none: a user without the audit entry would have come from nowhere.
        with transaction.atomic():
            super().save_user(request, user, form, commit=commit)
            if commit:
                services.signed_up(user=user)
                services.note_browser(user=user, name=browser_of(request))
        return user

    def get_client_ip(self, request: HttpRequest) -> str:
        """The address that `derp_portal.middleware.client_address` trusts; rate limits hang on it."""
        return getattr(request, "client_ip", None) or "127.0.0.1"

    def get_email_confirmation_url(self, request: HttpRequest | None, emailconfirmation: EmailConfirmationMixin) -> str:
        """An address under PUBLIC_URL, never under the Host header somebody sent."""
        return mails.absolute(reverse("account_confirm_email", args=[emailconfirmation.key]))

    def format_email_subject(self, subject: str) -> str:
        """The subject alone; the sender's name says who writes."""
        return subject

    @staticmethod
    def _has_own_words(kind: str) -> bool:
        try:
            get_template(f"mail/{kind}.txt")
        except TemplateDoesNotExist:
            return False
        return True
