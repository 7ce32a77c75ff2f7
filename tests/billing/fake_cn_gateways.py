"""Alipay and WeChat Pay on this machine: they check our signatures, keep trades, and sign what they say.

Written against their documentation, with `cryptography` alone: nothing here comes from the SDKs that are tested.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from billing.gateways.base import RawCallback

CHINA = timezone(timedelta(hours=8))
APP_ID = "2021000123456789"
SELLER_ID = "2088123456789012"
MCH_ID = "1900009191"
WX_APP_ID = "wxd678efh567hg6787"
SERIAL = "444F4864EA9B34415A7B1DE3EDE55A4BA8A9A38E"
API_V3_KEY = "0123456789abcdefABCDEF0123456789"
PUBLIC_KEY_ID = "PUB_KEY_ID_0119000091912024110100000000000001"


def new_key(bits: int = 2048) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=bits)


def private_pem(key: RSAPrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def public_pem(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def bare(pem: str) -> str:
    """As the consoles show it: one line without the frame."""
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))


def sign(key: RSAPrivateKey, text: str, *, is_old: bool = False) -> str:
    return base64.b64encode(key.sign(text.encode(), PKCS1v15(), SHA1() if is_old else SHA256())).decode()


def is_signed(key: RSAPublicKey, text: str, signature: str) -> bool:
    try:
        key.verify(base64.b64decode(signature), text.encode(), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass
class Trade:
    """One payment as the other side keeps it."""

    total: int
    """Fen."""
    asked: dict[str, Any]
    state: str
    transaction_id: str = ""
    refunds: dict[str, int] = field(default_factory=dict)
    payer: dict[str, str] = field(default_factory=dict)
    """What is said of the account that paid."""


class _Server:
    """An HTTP server on 127.0.0.1 that can be in a bad mood."""

    def __init__(self, merchant: RSAPrivateKey, own: RSAPrivateKey) -> None:
        self.merchant, self.own, self.stranger = merchant, own, new_key()
        self._released = threading.Event()
        self.reset()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if outer.mood == "hangs":
                    # Until whoever asks has surely lost patience: who hangs up first hears something else.
                    outer._released.wait(60)
                    return
                status: int
                headers: dict[str, str]
                if outer.mood == "500":
                    status, headers, answer = 500, {}, b"<html>Bad Gateway</html>"
                elif outer.mood == "garbage":
                    status, headers, answer = 200, {}, b'{"half": '
                else:
                    status, headers, answer = outer.handle(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = handle_any  # noqa: N815 - the names that the standard library calls.
            do_POST = handle_any  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def reset(self) -> None:
        """As if nobody had asked for anything."""
        self._released.set()
        self._released = threading.Event()
        self.mood = ""
        """What goes wrong: `500`, `hangs`, `garbage`, `bad_signature`, `unsigned`; "" for nothing."""
        self.refusal: tuple[str, str] | None = None
        """The business error that everything is answered with."""
        self.trades: dict[str, Trade] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError


class FakeAlipay(_Server):
    """openapi.alipay.com. A trade begins when the payer opens the address that we made (`open`)."""

    def reset(self) -> None:
        super().reset()
        self.refund_answer = "Y"
        """`N`: the first request does not move the money at once."""

    def settings(self, **changed: str) -> dict[str, str]:
        return {
            "app_id": APP_ID,
            "app_private_key": private_pem(self.merchant),
            "alipay_public_key": public_pem(self.own),
            "seller_id": SELLER_ID,
            "gateway_url": f"{self.url}/gateway.do",
            **changed,
        }

    def open(self, redirect_url: str) -> Trade:
        """The payer's browser comes with what we signed, and the payer signs in."""
        said = dict(parse_qsl(urlsplit(redirect_url).query, keep_blank_values=True))
        assert self._check(said) == "", "Alipay shows the payer an error"
        asked = json.loads(said["biz_content"])
        return self.trades.setdefault(
            asked["out_trade_no"],
            Trade(_fen(asked["total_amount"]), said | asked, "WAIT_BUYER_PAY", f"20260101{secrets.randbelow(10**20)}"),
        )

    def pay(self, reference: str) -> None:
        self.trades[reference].state = "TRADE_SUCCESS"

    def notification(self, reference: str, *, at: datetime, **changed: str | None) -> RawCallback:
        """What Alipay posts to `notify_url`. `changed` is said before signing; None leaves it out."""
        trade = self.trades[reference]
        said: dict[str, str | None] = {
            "app_id": APP_ID,
            "auth_app_id": APP_ID,
            "buyer_logon_id": "ali***@example.com",
            "charset": "utf-8",
            "gmt_create": _china(at - timedelta(seconds=40)),
            "gmt_payment": _china(at - timedelta(seconds=5)),
            "notify_id": secrets.token_hex(16),
            "notify_time": _china(at),
            "notify_type": "trade_status_sync",
            "out_trade_no": reference,
            "seller_id": SELLER_ID,
            "subject": "三十天 & more + 100%",
            "total_amount": _yuan(trade.total),
            "trade_no": trade.transaction_id,
            "trade_status": trade.state,
            "version": "1.0",
            **changed,
        }
        return self.posted({name: value for name, value in said.items() if value is not None}, at=at)

    def posted(self, said: Mapping[str, str], *, at: datetime, **added: str | None) -> RawCallback:
        """Signed with RSA2; `added` is put in or (None) taken out after that."""
        text = "&".join(f"{name}={said[name]}" for name in sorted(said))
        form: dict[str, str | None] = {**said, "sign_type": "RSA2", "sign": sign(self.own, text), **added}
        body = urlencode({name: value for name, value in form.items() if value is not None}).encode()
        return raw(body, at=at, content_type="application/x-www-form-urlencoded; charset=utf-8")

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        said = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        name = said["method"].replace(".", "_") + "_response"
        wrong = self._check(said)
        if wrong:
            answer = {name: {"code": "40002", "msg": "Invalid Arguments", "sub_code": wrong, "sub_msg": "无效签名"}}
            return 200, {}, json.dumps(answer, ensure_ascii=False).encode()
        asked = json.loads(said["biz_content"])
        self.asked.append((said["method"], said | asked))
        inner = self.refuse(*self.refusal) if self.refusal else self.act(said["method"], said | asked)
        # A bracket in a text is none.
        text = json.dumps({**inner, "buyer_user_name": "甲}{"}, ensure_ascii=False)
        signature = sign(self.stranger if self.mood == "bad_signature" else self.own, text)
        tail = "" if self.mood == "unsigned" else f',"sign":"{signature}"'
        return 200, {"Content-Type": "text/html;charset=utf-8"}, f'{{"{name}":{text}{tail}}}'.encode()

    def act(self, method: str, asked: dict[str, Any]) -> dict[str, Any]:
        reference = asked.get("out_trade_no") or next(
            name for name, trade in self.trades.items() if trade.transaction_id == asked["trade_no"]
        )
        done = {"code": "10000", "msg": "Success", "out_trade_no": reference}
        if method == "alipay.trade.precreate":
            return {**done, "qr_code": f"https://qr.alipay.com/{reference.lower()}"}
        trade = self.trades.get(reference)
        if trade is None:
            return self.refuse("ACQ.TRADE_NOT_EXIST", "交易不存在")
        done["trade_no"] = trade.transaction_id
        if method == "alipay.trade.query":
            paid = {"send_pay_date": "2026-05-01 12:00:00"} if trade.state == "TRADE_SUCCESS" else {}
            return {**done, **paid, **trade.payer, "trade_status": trade.state, "total_amount": _yuan(trade.total)}
        if method == "alipay.trade.close":
            if trade.state != "WAIT_BUYER_PAY":
                return self.refuse("ACQ.REASON_TRADE_STATUS_INVALID", "交易状态异常")
            trade.state = "TRADE_CLOSED"
            return done
        name = asked["out_request_no"]
        if method == "alipay.trade.refund":
            if trade.state != "TRADE_SUCCESS" and name not in trade.refunds:
                return self.refuse("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
            is_first = name not in trade.refunds
            trade.refunds.setdefault(name, _fen(asked["refund_amount"]))
            given_back = sum(trade.refunds.values())
            if given_back == trade.total:
                trade.state = "TRADE_CLOSED"
            change = self.refund_answer if is_first else "N"
            return {**done, "fund_change": change, "refund_fee": _yuan(given_back)}
        assert method == "alipay.trade.fastpay.refund.query"
        if self.refund_answer == "N":
            # Nothing to tell yet, and so it tells nothing.
            return {"code": "10000", "msg": "Success"}
        return {
            **done,
            "out_request_no": name,
            "refund_status": "REFUND_SUCCESS",
            "refund_amount": _yuan(trade.refunds[name]),
        }

    def refuse(self, code: str, message: str) -> dict[str, Any]:
        outer = "20000" if code.startswith("isp.") else "40004"
        return {"code": outer, "msg": "Business Failed", "sub_code": code, "sub_msg": message}

    def _check(self, said: dict[str, str]) -> str:
        text = "&".join(f"{name}={said[name]}" for name in sorted(said) if name != "sign" and said[name])
        if said.get("sign_type") != "RSA2" or not is_signed(self.merchant.public_key(), text, said.get("sign", "")):
            return "isv.invalid-signature"
        sent = datetime.strptime(said["timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA)
        return "" if abs(datetime.now(UTC) - sent) < timedelta(minutes=10) else "isv.invalid-timestamp"


class FakeWechat(_Server):
    """api.mch.weixin.qq.com."""

    def reset(self) -> None:
        super().reset()
        self.refund_state = "SUCCESS"
        """What a refund has come to when it is asked for; `refund_state_later` when it is looked at."""
        self.refund_state_later = "PROCESSING"
        self.signed_ago = timedelta(0)

    def settings(self, **changed: str) -> dict[str, str]:
        return {
            "mch_id": MCH_ID,
            "app_id": WX_APP_ID,
            "private_key": private_pem(self.merchant),
            "cert_serial_no": SERIAL,
            "api_v3_key": API_V3_KEY,
            "public_key": public_pem(self.own),
            "public_key_id": PUBLIC_KEY_ID,
            "base_url": self.url,
            **changed,
        }

    def pay(self, reference: str) -> None:
        trade = self.trades[reference]
        trade.state, trade.transaction_id = "SUCCESS", f"42000012{secrets.randbelow(10**20)}"

    def notification(self, reference: str, *, at: datetime, **changed: Any) -> RawCallback:
        """What WeChat posts to `notify_url`. `changed` is said in the sealed part."""
        return self.posted(self.envelope({**self._told(reference), **changed}), at=at)

    def envelope(
        self, content: Any, *, event: str = "TRANSACTION.SUCCESS", key: str = API_V3_KEY, **changed: Any
    ) -> dict[str, Any]:
        nonce = secrets.token_hex(6)
        sealed = AESGCM(key.encode()).encrypt(nonce.encode(), json.dumps(content).encode(), b"transaction")
        return {
            "id": secrets.token_hex(16),
            "create_time": "2026-05-01T12:00:05+08:00",
            "resource_type": "encrypt-resource",
            "event_type": event,
            "summary": "支付成功",
            "resource": {
                "original_type": "transaction",
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": base64.b64encode(sealed).decode(),
                "associated_data": "transaction",
                "nonce": nonce,
            },
            **changed,
        }

    def posted(self, envelope: Any, *, at: datetime, **marks: str) -> RawCallback:
        """Signed; `marks` are header names without their beginning, changed after that."""
        body = envelope if isinstance(envelope, bytes) else json.dumps(envelope, ensure_ascii=False).encode()
        headers = self._marks(body, at)
        headers |= {f"wechatpay-{name.replace('_', '-')}": value for name, value in marks.items()}
        return raw(body, at=at, content_type="application/json", headers=headers)

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name.lower(): value for name, value in headers.items()}
        if not self._is_ours(method, path, headers, body):
            return self._refuse(401, "SIGN_ERROR", "签名错误")
        if headers.get("wechatpay-serial") != PUBLIC_KEY_ID:
            return self._refuse(400, "PARAM_ERROR", "Wechatpay-Serial")
        asked = json.loads(body) if body else {}
        self.asked.append((f"{method} {path}", asked))
        if self.refusal:
            return self._refuse(int(self.refusal[0]), self.refusal[1], "不行")
        status, answer = self.act(method, urlsplit(path).path, asked)
        if status >= 400:
            return self._refuse(status, answer["code"], "不行")
        text = b"" if status == 204 else json.dumps(answer, ensure_ascii=False).encode()
        marks = {} if self.mood == "unsigned" else self._marks(text, datetime.now(UTC) - self.signed_ago)
        if self.mood == "bad_signature":
            marks["wechatpay-signature"] = sign(self.stranger, "no")
        # Without an encoding in it, as the real one sends.
        return status, {"Content-Type": "application/json", **marks}, text

    def act(self, method: str, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v3/pay/transactions/native":
            reference = asked["out_trade_no"]
            assert (asked["mchid"], asked["appid"]) == (MCH_ID, WX_APP_ID)
            self.trades.setdefault(reference, Trade(asked["amount"]["total"], asked, "NOTPAY"))
            return 200, {"code_url": f"weixin://wxpay/bizpayurl?pr={reference}"}
        if path.startswith("/v3/refund/domestic/refunds"):
            return self._refund(path, asked)
        reference = path.removesuffix("/close").rpartition("/")[2]
        trade = self.trades.get(reference)
        if trade is None:
            return 404, {"code": "ORDER_NOT_EXIST"}
        if not path.endswith("/close"):
            return 200, self._told(reference)
        if trade.state != "NOTPAY":
            return 400, {"code": "ORDER_CLOSED" if trade.state == "CLOSED" else "ORDERPAID"}
        trade.state = "CLOSED"
        return 204, {}

    def _refund(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        state = self.refund_state
        if not asked:
            name, state = path.rpartition("/")[2], self.refund_state_later
            trade = next((trade for trade in self.trades.values() if name in trade.refunds), None)
            if trade is None:
                return 404, {"code": "RESOURCE_NOT_EXISTS"}
        else:
            name = asked["out_refund_no"]
            trade = next(trade for trade in self.trades.values() if trade.transaction_id == asked["transaction_id"])
            assert asked["amount"]["total"] == trade.total
            if trade.refunds.setdefault(name, asked["amount"]["refund"]) != asked["amount"]["refund"]:
                return 400, {"code": "INVALID_REQUEST"}
            trade.state = "REFUND"
        return 200, {
            "refund_id": f"503{name}",
            "out_refund_no": name,
            "status": state,
            "channel": "ORIGINAL",
            "amount": {"refund": trade.refunds[name], "total": trade.total, "currency": "CNY"},
        }

    def _told(self, reference: str) -> dict[str, Any]:
        trade = self.trades[reference]
        told: dict[str, Any] = {
            "appid": WX_APP_ID,
            "mchid": MCH_ID,
            "out_trade_no": reference,
            "trade_state": trade.state,
            "trade_state_desc": "支付成功",
            "amount": {"total": trade.total, "payer_total": trade.total - 1, "currency": "CNY"},
        }
        if trade.payer:
            told["payer"] = trade.payer
        if trade.transaction_id:
            told |= {"transaction_id": trade.transaction_id, "success_time": "2026-05-01T12:00:00+08:00"}
        return told

    def _marks(self, body: bytes, at: datetime) -> dict[str, str]:
        stamp, nonce = str(int(at.timestamp())), secrets.token_hex(16)
        return {
            "wechatpay-timestamp": stamp,
            "wechatpay-nonce": nonce,
            "wechatpay-serial": PUBLIC_KEY_ID,
            "wechatpay-signature": sign(self.own, f"{stamp}\n{nonce}\n{body.decode(errors='replace')}\n"),
            "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
        }

    def _refuse(self, status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
        text = json.dumps({"code": code, "message": message}, ensure_ascii=False).encode()
        return status, {"Content-Type": "application/json"}, text

    def _is_ours(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        kind, _, rest = headers.get("authorization", "").partition(" ")
        said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind != "WECHATPAY2-SHA256-RSA2048" or (said["mchid"], said["serial_no"]) != (MCH_ID, SERIAL):
            return False
        text = f"{method}\n{path}\n{said['timestamp']}\n{said['nonce_str']}\n{body.decode()}\n"
        return is_signed(self.merchant.public_key(), text, said["signature"])


def raw(
    body: bytes,
    *,
    at: datetime,
    method: str = "POST",
    content_type: str = "text/plain",
    headers: Mapping[str, str] | None = None,
) -> RawCallback:
    return RawCallback(method, {"content-type": content_type, **(headers or {})}, body, "", at)


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02}"


def _fen(yuan: str) -> int:
    whole, _, rest = yuan.partition(".")
    assert len(rest) == 2
    return int(whole) * 100 + int(rest)


def _china(moment: datetime) -> str:
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")
