"""Addresses of servers: what is taken is understood by the driver as it was meant, or refused."""

import asyncio
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from aio_pika.connection import make_url
from pymongo.uri_parser import parse_uri
from redis.asyncio.connection import parse_url

from mailtape.foreign_settings import CALLED_OTHERWISE
from mailtape.opening import check_addresses
from mailtape.settings import Settings, WrongSettings, read_settings

SPECIAL = "/#@:?%"
URLS = {
    "RABBITMQ_URL": "amqp://mailtape:{}@127.0.0.1:9/v",
    "REDIS_URL": "redis://:{}@127.0.0.1:9/0",
    "MONGODB_URL": "mongodb://mailtape:{}@127.0.0.1:9/?authSource=mailtape",
}
UNDERSTOOD: dict[str, Callable[[str], object]] = {
    "RABBITMQ_URL": lambda url: make_url(url).password,
    "REDIS_URL": lambda url: parse_url(url)["password"],
    "MONGODB_URL": lambda url: parse_uri(url)["password"],
}
"""The password that each driver reads."""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, *CALLED_OTHERWISE]:
        monkeypatch.delenv(name.upper(), raising=False)


def check(folder: Path, name: str, url: str) -> None:
    asyncio.run(check_addresses(read_settings(folder / "none.env", **{name.lower(): url})))


def fault(folder: Path, name: str, url: str) -> str:
    with pytest.raises(WrongSettings) as wrong:
        check(folder, name, url)
    (sentence,) = wrong.value.faults
    assert wrong.value.__suppress_context__ or wrong.value.__context__ is None
    return sentence


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "password",
    [f"hunter2{special}Zx9" for special in SPECIAL]
    + [f"2{special}3" for special in SPECIAL]
    + [f"{special}2{special}" for special in SPECIAL],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_repeated(
    tmp_path: Path, name: str, password: str
) -> None:
    sentence = fault(tmp_path, name, URLS[name].format(password))

    assert sentence.startswith(f"{name} ")
    assert "percent-encoded" in sentence
    for part in ("hunter2", "Zx9", "127.0.0.1", "mailtape", "@"):
        assert part not in sentence.removeprefix(name)


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("special", [*SPECIAL, "+", " ", "&", "=", "é", "\\", '"'])
def test_an_encoded_password_is_taken_and_the_driver_reads_what_was_meant(
    tmp_path: Path, name: str, special: str
) -> None:
    password = f"hunter2{special}Zx9"
    url = URLS[name].format(quote(password, safe=""))

    check(tmp_path, name, url)

    assert UNDERSTOOD[name](url) == password


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("password", ["hunter2+Zx9=", "a!b$c'd(e)f*g,h;i=j", "a-b.c_d~e"])
def test_what_is_taken_as_it_stands_is_read_as_it_stands(
    tmp_path: Path, name: str, password: str
) -> None:
    url = URLS[name].format(password)
    try:
        check(tmp_path, name, url)
    except WrongSettings:
        assert (name, "+" in password) == ("MONGODB_URL", True), "its driver makes + a space"
    else:
        assert UNDERSTOOD[name](url) == password


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("RABBITMQ_URL", "amqp://127.0.0.1"),
        ("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
        ("RABBITMQ_URL", "amqp://u@rabbit.example.com/a%2Fb?heartbeat=30"),
        ("RABBITMQ_URL", "amqps://u:p@[::1]:5671/v?cafile=/etc/ssl/ca.pem"),
        ("REDIS_URL", "redis://127.0.0.1"),
        ("REDIS_URL", "redis://127.0.0.1:6379/15"),
        ("REDIS_URL", "rediss://user:p@redis_1:6379/0?ssl_cert_reqs=required"),
        ("REDIS_URL", "redis://[::1]:6379"),
        ("MONGODB_URL", "mongodb://127.0.0.1:27017/"),
        ("MONGODB_URL", "mongodb://u:p@a:27017,b,c.example.com:1/db?replicaSet=rs0&tls=true"),
        ("MONGODB_URL", "mongodb://u:p@%2Ftmp%2Fmongodb-27017.sock/db"),
    ],
)
def test_takes_what_an_address_may_be(tmp_path: Path, name: str, url: str) -> None:
    check(tmp_path, name, url)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("RABBITMQ_URL", "amqp://u:hunter2@:5672/"),
        ("RABBITMQ_URL", "amqp://u:hunter2@127.0.0.1:99999/"),
        ("RABBITMQ_URL", "amqp://u:hunter2@127.0.0.1:hunter2/"),
        ("RABBITMQ_URL", "amqp://u:hunter2@[not:v6]/"),
        ("RABBITMQ_URL", "amqp://u:hunter2@a,b/"),
        ("RABBITMQ_URL", f"amqp://u:hunter2@{'a' * 64}/"),
        ("RABBITMQ_URL", "amqp://u:hunter2@a/?cadata=%F"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1/mailtape"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:0/0"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1/0?max_connections=hunter2"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1/0?hunter2=1"),
        ("MONGODB_URL", "mongodb://:hunter2@127.0.0.1/"),
        ("MONGODB_URL", "mongodb://u:hunter2@/"),
        ("MONGODB_URL", "mongodb://u:hunter2@127.0.0.1:0/"),
        ("MONGODB_URL", "mongodb://u:hunter2@a,b/?directConnection=true"),
        ("MONGODB_URL", "mongodb+srv://u:hunter2@cluster.example.com:27017/"),
    ],
)
def test_refuses_what_no_driver_could_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, url: str
) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        sentence = fault(tmp_path, name, url)

    assert sentence.startswith(f"{name} ")
    assert "hunter2" not in sentence + caplog.text + "".join(str(each) for each in warned)
