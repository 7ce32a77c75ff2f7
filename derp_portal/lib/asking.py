"""Admin pages that ask before something is done: what will happen, what is lost, and only then the button."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from derp_portal.lib.errors import PortalError

CONFIRMED = "confirmed"
_SELECTION = ("action", "index", "select_across", ACTION_CHECKBOX_NAME)


@dataclass(frozen=True, slots=True)
class Question:
    """What the page says. `lines` tell what will happen; `back` is where both answers lead, as an address.

    A `form` asks for more; it must be bound when the request is a POST (see `data_of`).
    """

    title: str
    button: str
    back: str
    lines: Sequence[str] = ()
    form: forms.Form | None = None
    is_dangerous: bool = False


def data_of(request: HttpRequest) -> Any:
    """What to bind a question's form to: the answer, or None while the page is only asked for."""
    return request.POST if request.method == "POST" else None


def act(
    model_admin: ModelAdmin[Any], request: HttpRequest, question: Question, do: Callable[[], str | HttpResponseBase]
) -> HttpResponseBase:
    """Show the question; once it is answered by a POST, `do` it, say what it returns, and go back.

    `do` may answer with a response of its own. A PortalError is shown beside the form, or as a message.
    """
    answered = request.method == "POST" and (question.form is None or question.form.is_valid())
    return _carry_on(model_admin, request, question, do, answered=answered, kept=[])


def act_on_selection(
    model_admin: ModelAdmin[Any], request: HttpRequest, question: Question, do: Callable[[], str | HttpResponseBase]
) -> HttpResponseBase:
    """The same for rows chosen in a list: that arrives as a POST already, so the page marks its own answer.

    The choice is carried along as it was made; "all of them" stays two words instead of a hundred thousand ids.
    """
    kept = [(name, value) for name in _SELECTION for value in request.POST.getlist(name)]
    if "1" in request.POST.getlist("select_across"):
        # Django wants one row named even when all are meant.
        named = next(pair for pair in kept if pair[0] == ACTION_CHECKBOX_NAME)
        kept = [named, *(pair for pair in kept if pair[0] != ACTION_CHECKBOX_NAME)]
    answered = CONFIRMED in request.POST
    return _carry_on(model_admin, request, question, do, answered=answered, kept=[*kept, (CONFIRMED, "1")])


def _carry_on(
    model_admin: ModelAdmin[Any],
    request: HttpRequest,
    question: Question,
    do: Callable[[], str | HttpResponseBase],
    *,
    answered: bool,
    kept: list[tuple[str, str]],
) -> HttpResponseBase:
    if answered:
        try:
            told = do()
        except PortalError as refusal:
            if question.form is None:
                messages.error(request, str(refusal))
                return redirect(question.back)
            question.form.add_error(None, str(refusal))
        else:
            if isinstance(told, HttpResponseBase):
                return told
            messages.success(request, told)
            return redirect(question.back)
    media = model_admin.media + question.form.media if question.form else model_admin.media
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": question.title,
        "question": question,
        "kept": kept,
        "media": media,
    }
    return TemplateResponse(request, "admin/ask.html", context)
