"""Fixtures for the tests over real sockets: a real broker, a real database file, free ports, nothing left running."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from lib.broker import Broker  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what takes minutes: soak, chaos, full sizes")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="takes minutes: run with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def start_broker(tmp_path):
    """start_broker(*options, db=…, env=…) -> Broker; all that were started end with the test."""
    brokers = []

    def start(*options, **kwargs):
        kwargs.setdefault("db", tmp_path / f"eventbus{len(brokers) or ''}.db")
        broker = Broker(options, **kwargs)
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.finish()


@pytest.fixture
def broker(start_broker):
    """A broker with the default settings and a file of its own."""
    return start_broker()


@pytest.fixture(scope="session")
def build():
    return pathlib.Path(os.environ.get("EVENTBUS_BUILD", pathlib.Path(__file__).parent.parent / "build"))
