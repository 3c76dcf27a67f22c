"""The way in to a cluster's head: an address that a token may be sent to, the token, and a head that lets nobody in without one."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from archsweep.errors import ConfigError, MachineError

TOKEN_VARIABLE, TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class Address(NamedTuple):
    """Where a head's dashboard answers."""

    scheme: str
    host: str
    port: int | None

    @property
    def url(self) -> str:
        """Without a path, and without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")

    @property
    def on_loopback(self) -> bool:
        """Whether nothing that is sent there leaves this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent there."""
        return self.scheme == "https" or self.on_loopback


def parse_address(text: str) -> Address:
    """The address of a dashboard, as http://HOST:8265. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = re.fullmatch(r"[\x21-\x7e]+", text) and "\\" not in text and "@" not in parts.netloc
    if not (plain and parts.scheme in ("http", "https") and parts.hostname) or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"--address must be a dashboard's as http://HOST:8265 or https://HOST, without a user, a path or a query, got {text!r}. "
            "For example: http://127.0.0.1:8265."
        )
    return Address(parts.scheme, parts.hostname, port)


@dataclass(frozen=True)
class Token:
    """What a head answers to, and where it was found; its value is in no text that this makes."""

    value: str = field(repr=False)
    place: str

    def __str__(self) -> str:
        return self.place


def find_token() -> Token | None:
    """Ray's own token, from where Ray looks for it; None where there is none. Raises MachineError for one that cannot be read or sent."""
    if value := os.environ.get(TOKEN_VARIABLE):
        return _checked(Token(value.strip(), f"the variable {TOKEN_VARIABLE}"))
    named = os.environ.get(TOKEN_PATH_VARIABLE)
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return _checked(Token(path.read_text().strip(), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        if named or not isinstance(error, FileNotFoundError):
            raise MachineError(f"{path} must hold the cluster's token, and cannot be read. Mend it, or {TOKEN_PATH_VARIABLE}.") from None
        return None


def _checked(token: Token) -> Token | None:
    if not token.value:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", token.value):
        raise MachineError(f"{token.place} must hold one token, a word of plain characters, and does not. Copy it from the head.")
    return token


def check_private(address: Address) -> None:
    """Raises MachineError where what is sent, the token above all, could be read on its way."""
    if not address.is_private:
        port = address.port or 80
        raise MachineError(
            f"{address.url} is plain http off this machine, where anyone on the way could read the cluster's token: nothing was sent. "
            f"Open a tunnel, `ssh -L {port}:127.0.0.1:{port} {address.host}`, and give --address http://127.0.0.1:{port}, or use https."
        )
