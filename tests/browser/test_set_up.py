"""The first minutes: a locked box is opened with the code out of its log, an open one is put on the network."""
import re

from conftest import Box
from world import until


def code_of(box):
    found = until("the log tells the set-up code", lambda: re.search(r"\b[a-z0-9]{5}-[a-z0-9]{5}\b", box.world.log(box.name)))
    return found.group()


def set_up(page, code, password, again=None):
    page.fill("Set-up code", code)
    page.fill("New password (", password)
    page.fill("New password again", again or password)
    page.click("Set the password")


def sign_in(page, password):
    page.fill("Password", password)
    page.click("Sign in")


def test_a_locked_box_is_set_up_and_signed_in_to(page, world, request):
    box = Box(world, f"locked-{request.node.callspec.id}", web__address="0.0.0.0", soulseek__username=None, soulseek__password=None)
    try:
        for path in ("/", "/downloads", "/settings", "/users/them"):
            page.open(box.url + path)
            assert page.address == f"{box.url}/setup"
        assert not page.has("//nav"), "nothing is told before the password is set"
        code = code_of(box)
        # Who reads it on the appliance's card has to switch the box off for that.
        box.process.stop()
        box.start()
        until("the log tells the same again", lambda: box.world.log(box.name).count(f"set-up code: {code} ") == 2)
        page.open(box.url)
        set_up(page, "wrong-wrong", "correct horse")
        page.says("That is not the set-up code.")
        set_up(page, code, "correct horse", "battery staple")
        page.says("not the same")
        page.open(box.url)
        set_up(page, code, "correct horse")
        page.says("The password is set", "Waiting for your Soulseek user name")
        [cookie] = page.driver.get_cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["path"] == "/", cookie

        page.click("Sign out")
        page.says("You are signed out")
        page.open(f"{box.url}/downloads")
        assert page.address == f"{box.url}/login"
        sign_in(page, "battery staple")
        page.says("That is not the password.")
        assert page.address == f"{box.url}/login" and page.driver.get_cookies() == []
        sign_in(page, "correct horse")
        page.says("Status", "Sign out")
        page.open(f"{box.url}/setup")
        assert page.has("//nav"), "the code works once"
        assert code not in page.text
    finally:
        box.process.stop()


def test_an_open_box_says_so_and_is_put_on_the_network(page, world, request):
    name = f"fresh-{request.node.callspec.id}"
    box = Box(world, name, soulseek__username=None, soulseek__password=None)
    try:
        page.open(box.url)
        assert "No password is set: everybody who uses this computer can use this page." in page.text
        assert "Waiting for your Soulseek user name and password." in page.text
        page.fill("User name", name)
        page.fill("Password", "pw")
        page.click("Save and connect")
        page.says("User name and password are kept")
        page.sees(f"On the Soulseek network as {name}.")
        page.open(f"{box.url}/settings")
        assert page.value("User name") == name
        row = page.row("soulseek.username")
        assert name in row and f"file {box.home}/slskdn.yml:" in row, row
        assert "(set)" in page.row("soulseek.password"), "the password itself is never shown"

        # The browser that sets a password stays in, all others have to sign in.
        page.click("Set a password")
        page.fill("New password (", "correct horse")
        page.fill("New password again", "correct horse")
        page.click("Set the password")
        page.says("The password is set")
        assert "everybody" not in page.text
        page.driver.delete_all_cookies()
        page.open(box.url)
        assert page.address == f"{box.url}/login"
    finally:
        box.process.stop()
