"""The way in: which addresses a token may be sent to, where it comes from, and which heads are refused before anything is sent."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from archsweep.errors import ConfigError, MachineError
from archsweep.submitting import door
from archsweep.submitting.head import enter
from tests.submitting.dashboard import TOKEN, Dashboard, served

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _our_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:8265", "ray://127.0.0.1:10001", "ftp://h", "http://", "http://h:port", "http://h:99999", "http://user:pass@h:8265",
     "http://h/jobs", "http://h?x=1", "http://h#x", "http://127.0.0.1\\@evil.example", "http://h\n:8265", "file:///etc/passwd", "http://[::1"],
)  # fmt: skip
def test_what_is_no_dashboards_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--address must be .* For example: http://127\.0\.0\.1:8265"):
        door.parse_address(text)


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://127.9.9.9", True),
        ("http://localhost:8265/", True),
        ("http://[::1]:8265", True),
        ("https://head.example", True),
        ("http://head.example:8265", False),
        ("http://10.0.0.1:8265", False),
        ("http://0.0.0.0:8265", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://[fe80::1]:8265", False),
    ],
)
def test_only_https_and_this_machine_are_private(text: str, private: bool) -> None:
    assert door.parse_address(text).is_private is private


def test_no_token_goes_over_plain_http_off_this_machine_and_the_sentence_opens_a_tunnel() -> None:
    with pytest.raises(MachineError) as refused:
        enter("http://head.example:8265")
    assert "ssh -L 8265:127.0.0.1:8265 head.example" in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_the_token_is_looked_for_where_ray_looks_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = door.find_token()
    assert found is not None
    assert (found.value, found.place) == (TOKEN, "the variable RAY_AUTH_TOKEN")
    assert TOKEN not in f"{found} {found!r}"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert door.find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("from-home\n")
    found = door.find_token()
    assert found is not None
    assert (found.value, found.place) == ("from-home", str(tmp_path / ".ray/auth_token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(MachineError, match="cannot be read"):
        door.find_token()
    (tmp_path / "gone").write_text(f"{TOKEN}\r\nX-Header: injected")
    with pytest.raises(MachineError, match="must hold one token") as refused:
        door.find_token()
    assert TOKEN not in str(refused.value)


def test_a_locked_head_of_our_versions_lets_us_in_after_it_was_tried_without_a_token() -> None:
    with served(Dashboard()) as dashboard:
        assert enter(dashboard.url).address.port == dashboard.port
    assert dashboard.asked[0] == ("GET", "/api/jobs/", None)
    assert {token for _, _, token in dashboard.asked[1:]} == {f"Bearer {TOKEN}"}


def test_an_open_head_is_refused_and_never_sees_the_token() -> None:
    dashboard = Dashboard()
    dashboard.locked = False
    with served(dashboard):
        with pytest.raises(MachineError, match=r"answers without a token: .* --insecure-no-auth"):
            enter(dashboard.url)
        assert enter(dashboard.url, insecure=True).token is None
    assert {token for _, _, token in dashboard.asked} == {None}


@pytest.mark.parametrize("status", [404, 500, 503])
def test_what_does_not_show_whether_it_is_locked_never_sees_the_token(status: int) -> None:
    dashboard = Dashboard()
    dashboard.out_of_order = status
    with served(dashboard), pytest.raises(MachineError, match=f"answered HTTP {status}"):
        enter(dashboard.url)
    assert {token for _, _, token in dashboard.asked} == {None}


def test_a_wrong_token_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-canary")
    with served(Dashboard()) as dashboard, pytest.raises(MachineError, match=r"does not let us in \(HTTP 403\)") as refused:
        enter(dashboard.url)
    assert "the token from the variable RAY_AUTH_TOKEN" in str(refused.value)
    assert "wrong-canary" not in str(refused.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with served(Dashboard()) as dashboard, pytest.raises(MachineError, match=r"\(HTTP 401\) with no token, as none was found"):
        enter(dashboard.url)


@pytest.mark.parametrize(("field", "value"), [("ray", "2.40.0"), ("python", "3.9.19")])
def test_another_ray_or_python_is_said_and_nothing_but_questions_was_sent(field: str, value: str) -> None:
    dashboard = Dashboard()
    setattr(dashboard, field, value)
    with served(dashboard), pytest.raises(MachineError, match=rf"runs \w+ {value[:3]}.*Nothing was sent"):
        enter(dashboard.url)
    assert {method for method, _, _ in dashboard.asked} == {"GET"}


def test_another_patch_of_python_is_the_same_python() -> None:
    dashboard = Dashboard()
    dashboard.python = ".".join(platform.python_version_tuple()[:2]) + ".99"
    with served(dashboard):
        assert enter(dashboard.url).address.url == dashboard.url


def test_a_head_that_sends_us_elsewhere_is_not_followed() -> None:
    dashboard = Dashboard()
    with served(Dashboard()) as other, served(dashboard):
        dashboard.elsewhere = other.url
        with pytest.raises(MachineError, match=r"sends us elsewhere \(HTTP 307\)"):
            enter(dashboard.url)
    assert other.asked == []


def test_a_proxy_is_not_told_what_is_meant_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Dashboard()) as proxy, served(Dashboard()) as dashboard:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        enter(dashboard.url)
    assert proxy.asked == []


def test_nothing_and_no_dashboard_are_told_apart() -> None:
    dashboard = Dashboard()
    with served(dashboard):
        dashboard.answer = lambda path, token: (200, "hello") if token else (401, "")  # type: ignore[method-assign]
        with pytest.raises(MachineError, match="is no dashboard of Ray"):
            enter(dashboard.url)
    with pytest.raises(MachineError, match="nothing answers at"):
        enter(dashboard.url)
