"""`/api/reseller/…`: for resellers with a token of their own, and for staff; mounted by the composition."""

# Each adds its operations to the one router.
from . import desk as desk
from . import stock as stock
from . import trade as trade
from .own import reseller

__all__ = ["reseller"]
