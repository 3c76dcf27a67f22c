"""A cluster's head as its dashboard's HTTP API shows it: no Ray is needed to ask it."""

from __future__ import annotations

import http.client
import json
import platform
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, cast

from archsweep.errors import MachineError
from archsweep.submitting.door import Address, Token, check_private, find_token, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_SECONDS = 30.0
NOT_LET_IN = (401, 403)


class UnreachableError(MachineError):
    """The head does not answer, which may pass."""


class UnknownError(MachineError):
    """The head knows nothing of what it was asked for."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A head that sends us elsewhere would have our token sent there."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class Head:
    """A head that was found to be locked and to run our versions, and the token that opens it."""

    address: Address
    token: Token | None

    def get(self, path: str) -> Any:
        """What the head answers, as JSON. Raises MachineError, UnreachableError where asking again may help."""
        with self.opened(path) as answer:
            return _json(answer, self.address)

    def post(self, path: str) -> Any:
        """Ask for something to be done. Raises as `get` does."""
        with self.opened(path, method="POST") as answer:
            return _json(answer, self.address)

    @contextmanager
    def opened(self, path: str, method: str = "GET") -> Iterator[IO[bytes]]:
        """The head's answer as it comes. Raises as `get` does, in the block too."""
        try:
            with _open(self.address, path, self.token, method) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise _refusal(error, self.address, self.token) from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from error


def enter(address_text: str, insecure: bool = False) -> Head:
    """The head at an address, which answers nothing without a token and runs our versions of Ray and Python.

    `insecure` lets in one that is open to everyone, which is then sent no token. Raises ConfigError for what is no address, MachineError.
    """
    address = parse_address(address_text)
    if not insecure:
        check_private(address)
    if not _is_open(address):
        check_private(address)
        head = Head(address, find_token())
    elif insecure:
        head = Head(address, None)
    else:
        raise MachineError(
            f"{address.url} answers without a token: whoever reaches it can run anything there. Start it with RAY_AUTH_MODE=token, "
            "or say --insecure-no-auth if you must."
        )
    _check_versions(head)
    return head


def _is_open(address: Address) -> bool:
    try:
        with _open(address, "/api/jobs/", None):
            return True
    except urllib.error.HTTPError as error:
        if error.code in NOT_LET_IN:
            return False
        raise _refusal(error, address, None) from None  # what it is shows in nothing else, so no token goes there
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(address, error) from error


def _check_versions(head: Head) -> None:
    """Raises MachineError where the head runs another Ray, or a Python of another minor version."""
    found = head.get("/api/version")
    if not isinstance(found, dict) or "ray_version" not in found:
        raise _no_dashboard(head.address)
    _check_same(head, "Ray", found["ray_version"], version("ray"))
    python = head.get("/api/v0/cluster_metadata")["data"]["pythonVersion"]
    _check_same(head, "Python", *(".".join(each.split(".")[:2]) for each in (python, platform.python_version())))


def _check_same(head: Head, what: str, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise MachineError(
            f"the cluster at {head.address.url} runs {what} {theirs}, and this machine {what} {ours}: they must be the same. "
            f"Nothing was sent. Submit from an environment with {what} {theirs}, or start the cluster with {ours}."
        )


def _open(address: Address, path: str, token: Token | None, method: str = "GET") -> IO[bytes]:
    request = urllib.request.Request(address.url + path, method=method, data=b"" if method == "POST" else None)
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token.value}")
    # A proxy would read what is meant for this machine alone.
    handlers = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if address.on_loopback else [])]
    return cast("IO[bytes]", urllib.request.build_opener(*handlers).open(request, timeout=ANSWER_SECONDS))


def _json(answer: IO[bytes], address: Address) -> Any:
    try:
        return json.loads(answer.read())
    except ValueError:
        raise _no_dashboard(address) from None


def _refusal(error: urllib.error.HTTPError, address: Address, token: Token | None) -> MachineError:
    with error:
        said = " ".join(error.read(2000).decode(errors="replace").split()[-60:])
    if error.code in NOT_LET_IN:
        used = f"the token from {token}" if token else "no token, as none was found"
        return MachineError(
            f"{address.url} does not let us in (HTTP {error.code}) with {used}. Copy the head's own to RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, which are looked at in this order."
        )
    if 300 <= error.code < 400:
        return MachineError(f"{address.url} sends us elsewhere (HTTP {error.code}), where no token goes. Give the dashboard's own address.")
    passing = error.code >= 500 or error.code in (408, 429)
    kind = UnknownError if error.code == 404 else UnreachableError if passing else MachineError
    return kind(f"{address.url} answered HTTP {error.code}: {said or error.reason}.")


def _unreachable(address: Address, error: Exception) -> UnreachableError:
    reason = getattr(error, "reason", None) or error
    return UnreachableError(f"nothing answers at {address.url} ({reason}). Start the cluster, or mend --address or the tunnel to it.")


def _no_dashboard(address: Address) -> MachineError:
    return MachineError(f"{address.url} answers, and is no dashboard of Ray. `ray start --head` prints the address of one.")
