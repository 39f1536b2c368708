"""The page at `/` in a real browser: status, chat, and that its policy lets nothing else in."""
import pytest

from lib import browser as lib_browser
from lib.broker import wait_for

pytestmark = pytest.mark.skipif(not lib_browser.available(), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser():
    browser = lib_browser.Browser()
    yield browser
    browser.close()


def connected(browser):
    wait_for(lambda: browser.text("#connection") == "connected", what="the page's WebSocket")


def test_status_is_shown(broker, browser):
    broker.publish("a", b"")
    browser.open(broker.url + "/")
    wait_for(lambda: browser.text("#s-last_seq") == "1", what="the last seq on the page")
    assert browser.text("#s-version") == broker.stats()["version"] and browser.text("#s-storage") == "sqlite"


def test_chat_sends_to_chat_name_and_shows_what_others_send(broker, browser):
    browser.open(broker.url + "/")
    connected(browser)
    browser.run("document.getElementById('name').value = 'alice'")
    browser.type("#text", "hello <b>you</b>")
    browser.click("#send")
    wait_for(lambda: "hello <b>you</b>" in browser.text("#messages"), what="one's own message")
    event = broker.events("chat.*")[0]
    assert event["topic"] == "chat.alice" and event["payload"] == "hello <b>you</b>" and event["ttl"] == 3600
    broker.publish("chat.bob", "grüße".encode())
    wait_for(lambda: "grüße" in browser.text("#messages"), what="another's message")
    assert "bob" in browser.text("#messages")


def test_a_bad_name_is_explained(broker, browser):
    browser.open(broker.url + "/")
    connected(browser)
    browser.run("document.getElementById('name').value = 'not a name'")
    browser.type("#text", "x")
    browser.click("#send")
    wait_for(lambda: "topic" in browser.text("#chat-error"), what="the broker's explanation")


def test_policy_stops_inline_scripts_and_nothing_of_the_page_offends_it(broker, browser):
    browser.open(broker.url + "/")
    connected(browser)
    assert [line for line in browser.console() if line["level"] == "SEVERE"] == []
    browser.run("const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)")
    assert browser.run("return window.hacked") is None
    browser.run("const i = new Image(); i.src = 'http://127.0.0.1:1/x.png'; document.body.append(i)")
    wait_for(lambda: any("Content Security Policy" in line["message"] for line in browser.console()), what="the policy's complaint")


def test_page_asks_for_a_token_and_uses_it(start_broker, tmp_path, browser):
    (tmp_path / "tokens").write_text("sesame\n")
    broker = start_broker("--token-file", tmp_path / "tokens")
    browser.open(broker.url + "/")
    wait_for(lambda: browser.run("return !document.getElementById('token-form').hidden"), what="the form for the token")
    browser.type("#token", "sesame")
    browser.click("#token-form button")
    connected(browser)
    wait_for(lambda: browser.text("#s-last_seq") == "0", what="the status")


def test_page_reconnects_and_shows_what_it_missed(start_broker, browser):
    import socket

    with socket.socket() as probe:  # the same port again after the restart
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = start_broker(listen=f"127.0.0.1:{port}")
    browser.open(broker.url + "/")
    connected(browser)
    broker.publish("chat.bob", b"one")
    wait_for(lambda: "one" in browser.text("#messages"), what="the first message")
    broker.restart()
    broker.publish("chat.bob", b"two")
    connected(browser)
    wait_for(lambda: "two" in browser.text("#messages"), what="the message that was missed")
    assert browser.text("#messages").count("one") == 1
