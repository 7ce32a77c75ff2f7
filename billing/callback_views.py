"""Where gateways call back: no person, no session, no language."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from accounts.request_ip import current as current_ip
from billing.gateways.base import RawCallback
from billing.models import PaymentMethod
from billing.services.callbacks import handle_callback
from derp_portal.lib.clock import now


@csrf_exempt  # The gateway's signature stands for it.
@never_cache
@require_http_methods(["GET", "POST"])
def gateway_callback(request: HttpRequest, code: str) -> HttpResponse:
    """Take a callback for the payment method `code`. Some gateways call by GET."""
    method = get_object_or_404(PaymentMethod, code=code)
    callback = RawCallback(
        method=str(request.method),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.body,
        query=request.META.get("QUERY_STRING", ""),
        received_at=now(),
    )
    answer = handle_callback(method=method, callback=callback, ip=current_ip())
    return HttpResponse(answer.body, status=answer.status, content_type=answer.content_type)
