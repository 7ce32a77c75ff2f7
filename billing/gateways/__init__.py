"""Ways to pay. Only the modules here know a payment SDK; everybody else knows the protocol in `base`."""

from __future__ import annotations

import json
from functools import lru_cache

from .alipay import AlipayGateway
from .base import Gateway
from .epay import EpayGateway
from .offline import OfflineGateway
from .sandbox import SandboxGateway
from .stripe_checkout import StripeGateway
from .wechat import WechatGateway

KINDS: dict[str, type[Gateway]] = {
    kind.kind: kind
    for kind in (OfflineGateway, AlipayGateway, WechatGateway, StripeGateway, EpayGateway, SandboxGateway)
}


@lru_cache(maxsize=64)
def make(kind: str, settings: str) -> Gateway:
    """The gateway of that kind with these settings (a JSON object). Keys are read once, not at every callback.

    Raises KeyError for an unknown kind, ValueError for settings that cannot work.
    """
    return KINDS[kind](json.loads(settings))
