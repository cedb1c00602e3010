"""Requests that no page of ours makes: they are refused and change nothing."""
import re
import socket
from html.parser import HTMLParser

import pytest
import requests

from conftest import Box
from test_set_up import code_of


@pytest.fixture(scope="module")
def locked(world):
    """A box with a password, and the cookie and token of a session."""
    box = Box(world, "guarded", web__address="0.0.0.0", soulseek__username=None, soulseek__password=None)
    page = requests.get(f"{box.url}/setup")
    form = {"csrf": token(page), "code": code_of(box), "new": "correct horse", "again": "correct horse"}
    answer = requests.post(f"{box.url}/setup", form, headers={"Origin": box.url}, allow_redirects=False)
    assert answer.status_code == 303 and answer.headers["Location"].startswith("/?")
    box.set_cookie = answer.headers["Set-Cookie"]
    box.cookie = box.set_cookie.split(";")[0]
    yield box
    box.process.stop()


def token(page):
    return re.search(r'name="csrf" value="([^"]+)"', page.text).group(1)


def wishes(box, **headers):
    return requests.get(f"{box.url}/api/wishlist", headers=headers).json()


def post(box, path="/wishes", form=None, **headers):
    return requests.post(box.url + path, form or {}, headers={k.replace("_", "-"): v for k, v in headers.items()},
                         allow_redirects=False)


def refused(answer):
    assert answer.status_code in (400, 401, 403), answer.status_code
    guarded(answer)


def guarded(answer):
    """What every answer carries."""
    csp = answer.headers["Content-Security-Policy"]
    assert csp.startswith("default-src 'none'") and "unsafe" not in csp and "frame-ancestors 'none'" in csp
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["X-Frame-Options"] == "DENY"
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


class Tame(HTMLParser):
    """A page without anything that the policy would have to stop."""

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        assert tag not in ("style", "iframe", "object", "embed", "svg"), tag
        assert tag != "script" or names["src"].startswith("/static/page.js?"), names
        assert not [name for name in names if name.startswith("on") or name == "style"], names
        assert "javascript:" not in (names.get("href") or ""), names


def test_cross_site_posts_to_an_open_box(box):
    good = token(requests.get(f"{box.url}/search"))
    before = wishes(box)
    form = {"text": "from elsewhere", "csrf": good}
    refused(post(box, form=form, Origin="http://evil.example"))
    refused(post(box, form=form, Origin="null"))
    refused(post(box, form=form, Origin="http://127.0.0.1:1"))
    refused(post(box, form=form, Referer="http://evil.example/page"))
    refused(post(box, form=form))
    refused(post(box, form={"text": "no token"}, Origin=box.url))
    refused(post(box, form={"text": "wrong token", "csrf": "x" * len(good)}, Origin=box.url))
    refused(post(box, form=form, Origin=box.url, Host="evil.example"))
    refused(post(box, form=form, Origin="http://evil.example", Host="evil.example"))
    # What a foreign page may send without asking first: such a body, and no token.
    refused(requests.post(f"{box.url}/api/wishlist", data='{"text": "x"}',
                          headers={"Content-Type": "text/plain", "Origin": "http://evil.example"}))
    refused(requests.delete(f"{box.url}/api/wishlist/1", headers={"Origin": "http://evil.example"}))
    refused(requests.put(f"{box.url}/api/v0/server", headers={"Origin": "http://evil.example"}))
    refused(requests.options(f"{box.url}/api/wishlist", headers={
        "Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}))
    assert wishes(box) == before
    # The same with everything right.
    assert post(box, form=form, Origin=box.url).status_code == 303
    assert len(wishes(box)) == len(before) + 1


def test_foreign_hosts_see_nothing(box):
    for host in ("evil.example", "evil.example:5030", "127.0.0.1.evil.example", "1.2.3.4", "", "a b"):
        for path in ("/", "/api/v0/application", "/static/page.js"):
            answer = requests.get(box.url + path, headers={"Host": host})
            refused(answer)
            assert "csrf" not in answer.text
    # Two of them, as a proxy might be fooled.
    with socket.create_connection(("127.0.0.1", box.web)) as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{box.web}\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
        assert s.makefile("rb").readline().split()[1] == b"400"


def test_every_answer_is_guarded(box):
    for path in ("/", "/search", "/downloads", "/uploads", "/shares", "/shares/folders", "/users", "/users/them", "/users/them/browse",
                 "/log", "/mesh", "/settings", "/system", "/setup", "/login", "/static/style.css", "/static/page.js", "/static/icon.svg", "/health", "/ready",
                 "/metrics", "/api/v0/application", "/api/settings", "/no/such/page", "/searches/none", "/api/v0/none"):
        answer = requests.get(box.url + path, headers={"Origin": box.url})
        assert answer.status_code < 500, (path, answer.text)
        guarded(answer)
        if "html" in answer.headers.get("Content-Type", ""):
            Tame().feed(answer.text)


def test_strangers_change_and_see_nothing(locked):
    before = wishes(locked, Cookie=locked.cookie)
    stranger = token(requests.get(f"{locked.url}/login"))
    form = {"text": "x", "csrf": stranger}
    assert post(locked, form=form, Origin=locked.url).headers["Location"] == "/login"
    refused(requests.post(f"{locked.url}/api/wishlist", json={"text": "x"}))
    refused(requests.get(f"{locked.url}/api/v0/application"))
    refused(requests.get(f"{locked.url}/metrics"))
    for path in ("/", "/downloads", "/log", "/settings"):
        answer = requests.get(locked.url + path, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        guarded(answer)
    # A session's cookie with a stranger's token, or with none, or from elsewhere.
    refused(post(locked, form=form, Origin=locked.url, Cookie=locked.cookie))
    refused(requests.post(f"{locked.url}/api/wishlist", json={"text": "x"}, headers={"Cookie": locked.cookie}))
    own = token(requests.get(f"{locked.url}/search", headers={"Cookie": locked.cookie}))
    refused(post(locked, form={"text": "x", "csrf": own}, Origin="http://evil.example", Cookie=locked.cookie))
    # The code is used up.
    refused(post(locked, "/settings/password", {"csrf": stranger, "current": "correct horse", "new": "x" * 9, "again": "x" * 9},
                 Origin=locked.url, Cookie=locked.cookie))
    assert wishes(locked, Cookie=locked.cookie) == before
    assert post(locked, form={"text": "x", "csrf": own}, Origin=locked.url, Cookie=locked.cookie).status_code == 303
    assert len(wishes(locked, Cookie=locked.cookie)) == len(before) + 1


def test_the_cookie_is_for_this_page_alone(locked):
    parts = [part.strip().lower() for part in locked.set_cookie.split(";")]
    assert {"httponly", "samesite=strict", "path=/"} <= set(parts), parts
    assert not any(part.startswith("domain=") for part in parts)
    assert parts[0].startswith(f"slskdn_{locked.web}="), "two boxes on one host do not mix their cookies up"


def test_guessing_a_password_is_slowed_down(locked):
    form = {"csrf": token(requests.get(f"{locked.url}/login")), "password": "wrong"}
    codes = [post(locked, "/login", form, Origin=locked.url).status_code for _ in range(7)]
    assert codes[:4] == [401] * 4 and codes[-1] == 429, codes
    form["password"] = "correct horse"
    answer = post(locked, "/login", form, Origin=locked.url)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 60
