"""Everything that changes what is owed, paid and delivered."""

from .balances import balance_of, pay_from_balance
from .channels import (
    add_stock,
    channel_of_token,
    issue_channel_token,
    pick_up,
    refund_outside,
    stock_levels,
    take_back_free,
)
from .fulfilment import codes_of, deliver
from .methods import gateway_of, offered_methods, save_method, settings_of
from .orders import cancel_order, place_order
from .payments import start_payment
from .pricing import Item, NotForSale, Quote, price_list, quote
from .receiving import accept_transfer, confirm_by_hand
from .refund_sending import settle_by_hand
from .refunds import Worth, give_back_transfer, refund_order, worth_of
from .terms import set_brought_by, set_wholesale_level

__all__ = [
    "Item",
    "NotForSale",
    "Quote",
    "Worth",
    "accept_transfer",
    "add_stock",
    "balance_of",
    "cancel_order",
    "channel_of_token",
    "codes_of",
    "confirm_by_hand",
    "deliver",
    "gateway_of",
    "give_back_transfer",
    "issue_channel_token",
    "offered_methods",
    "pay_from_balance",
    "pick_up",
    "place_order",
    "price_list",
    "quote",
    "refund_order",
    "refund_outside",
    "save_method",
    "set_brought_by",
    "set_wholesale_level",
    "settings_of",
    "settle_by_hand",
    "start_payment",
    "stock_levels",
    "take_back_free",
    "worth_of",
]
