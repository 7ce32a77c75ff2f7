from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from derp_portal.urls import urlpatterns as portal_urls


@csrf_exempt
def empty(_request: HttpRequest) -> JsonResponse:
    """What the door answers, without having asked anybody."""
    return JsonResponse({"Allow": True})


urlpatterns = [*portal_urls, path("bench/empty/", empty)]
