"""`/api/plan/…`, `/api/pack/…`, `/api/order/…`, `/api/payment/…`, `/api/finance/…`, and what of `/api/serial/…` is for
outside shops; mounted by the composition."""

from .catalogue import pack, payment, plan
from .finance import finance
from .orders import order
from .shops import shop
from .staff import desk

__all__ = ["desk", "finance", "order", "pack", "payment", "plan", "shop"]
