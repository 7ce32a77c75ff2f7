"""Prices, orders, payments, outside shops and the ledger."""

from .catalogue import CURRENCIES, BuyerTerms, Coupon, PackOffer, Price, TrialUse, WholesalePrice
from .channels import ChannelStock, SalesChannel
from .ledger import Account, ClosedMonth, DailyFigure, Posting, RolledDay
from .orders import CouponUse, Order, OrderLine, OrderTransition, SoldSerial
from .payments import (
    GatewayCallback,
    Payment,
    PaymentMethod,
    Refund,
    SandboxCallback,
    SandboxCharge,
    Transfer,
)

__all__ = [
    "CURRENCIES",
    "Account",
    "BuyerTerms",
    "ChannelStock",
    "ClosedMonth",
    "Coupon",
    "CouponUse",
    "DailyFigure",
    "GatewayCallback",
    "Order",
    "OrderLine",
    "OrderTransition",
    "PackOffer",
    "Payment",
    "PaymentMethod",
    "Posting",
    "Price",
    "Refund",
    "RolledDay",
    "SalesChannel",
    "SandboxCallback",
    "SandboxCharge",
    "SoldSerial",
    "Transfer",
    "TrialUse",
    "WholesalePrice",
]
