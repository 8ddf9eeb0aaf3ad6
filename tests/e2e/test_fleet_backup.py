"""The deployment page's lines for a fleet, pasted: a copy comes back, and another bound holds.

`mysqldump` and `mysql` are the server's own. Where there is no `mongodump`, a program of this
module does with documents what it is asked for by its options.
"""

import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import fleet as fleets
import services
from fleet import Fleet
from forked import Forked
from owners import Owner, owning
from rules.test_deployment import BLOCKS, ROOT, installed, sourced
from senders import Line
from served import environment

pytestmark = [pytest.mark.services, pytest.mark.e2e]

LARGE = 400_000
"""Bytes of a mail that waits in MongoDB and is kept there as a file."""
SEEN_WITHIN = 60
(COPY,) = (block for block in BLOCKS if "mysqldump" in block)
(EMPTY,) = (block for block in BLOCKS if block.startswith("systemctl stop 'mailtape-ingest@*'"))
(ANEW,) = (block for block in BLOCKS if "delete_queue" in block)
(PUT_BACK,) = (block for block in BLOCKS if "mongorestore" in block)
ROWS = COPY.partition("mongodump")[0]
MONGO = """
    import argparse, pathlib, sys
    import bson, pymongo

    given = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--uri", "--db", "--archive", "--nsInclude"):
        given.add_argument(name)
    for name in ("--gzip", "--drop"):
        given.add_argument(name, action="store_true")
    given.add_argument("--excludeCollection", action="append", default=[])
    options = given.parse_args()
    archive, client = pathlib.Path(options.archive), pymongo.MongoClient(options.uri)
    if sys.argv[0].endswith("mongodump"):
        database = client[options.db]
        names = set(database.list_collection_names()) - set(options.excludeCollection)
        with archive.open("wb") as file:
            for name in names:
                for document in database[name].find():
                    file.write(bson.encode({"of": name, "is": document}))
    else:
        database, dropped = client[options.nsInclude.removesuffix(".*")], set()
        for entry in bson.decode_file_iter(archive.open("rb")):
            if options.drop and entry["of"] not in dropped:
                database.drop_collection(entry["of"])
                dropped.add(entry["of"])
            database[entry["of"]].insert_one(entry["is"])
"""


@pytest.fixture
def fleet(tmp_path: Path, mailtape: Forked) -> Iterator[Fleet]:
    with (
        fleets.places() as places,
        fleets.fleet(tmp_path, places, mailtape, api=1, ingest=1, worker=1) as started,
    ):
        yield started


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """What the lines call beside the server's own programs: `systemctl`, and what is missing."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "systemctl").write_text("#!/bin/sh\n")
    (folder / "rabbitmqctl").write_text(
        f'#!/bin/sh\nexec {ROOT}/deploy/services rabbitmqctl "$@"\n'
    )
    for name in ("mongodump", "mongorestore"):
        if shutil.which(name) is None:
            (folder / name).write_text(f"#!{sys.executable}\n{textwrap.dedent(MONGO)}")
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


def paste(
    fleet: Fleet, programs: Path, lines: str, **further: str
) -> subprocess.CompletedProcess[str]:
    """Run lines of the page as an operator does, with the page's settings, other values in them."""
    (settings,) = [block for block in BLOCKS if block.startswith("APP_ENV=")]
    ours = {name: fleet.settings.get(name, "") for name in sourced(settings)} | further
    assert ours["DB_HOST"]
    assert ours["MONGODB_DATABASE"]
    installed(programs, "".join(f"{name}='{value}'\n" for name, value in ours.items() if value))
    lines = lines.replace("/etc/mailtape/mailtape.env", str(programs / "mailtape.env"))
    lines = lines.replace(
        "--vhost mailtape ", f"--vhost {urlsplit(ours['RABBITMQ_URL']).path[1:]} "
    )
    kept = environment()
    return subprocess.run(
        ["bash", "-c", lines],
        cwd=programs,
        env=kept | {"PATH": f"{programs}:{kept['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def mail(name: str) -> bytes:
    padding = b"large\r\n" * (LARGE // 7) if name == "large" else b"small\r\n"
    return f"From: a@example.org\r\nSubject: {name}\r\n\r\n".encode() + padding


def send(fleet: Fleet, owner: Owner, address: str, *names: str) -> None:
    """Send mails, and wait until they are stored."""
    before = owner.count(address=address)
    with Line(fleet.of("ingest")[0].smtp) as line:
        assert line.hello().startswith(b"250")
        for name in names:
            assert line.send(mail(name), address.encode()).startswith(b"250")
    owner.wait_for(before + len(names), SEEN_WITHIN, address=address)


def findings(said: str) -> Counter[str]:
    return Counter(re.findall(r"^(\w+): ", said, re.MULTILINE))


@pytest.mark.parametrize("between", [(), ("later", "latest")])
def test_what_the_pasted_lines_copy_comes_back_and_is_sound(
    fleet: Fleet, programs: Path, between: tuple[str, ...]
) -> None:
    api, token = fleet.of("api")[0], fleet.settings["MAILTAPE_API_TOKEN"]
    with owning(api.http, token) as owner:
        address = owner.address()
        send(fleet, owner, address, "one", "large", "three")
        copied = paste(fleet, programs, ROWS.rstrip().removesuffix("&&"))
        assert copied.returncode == 0, copied.stderr
        if between:
            send(fleet, owner, address, *between)
            gone = next(m for m in owner.messages(address) if m["subject"] == "one")
            owner.client.delete(f"/messages/{gone['id']}").raise_for_status()
        copied = paste(fleet, programs, _without_rows(COPY))
        assert copied.returncode == 0, copied.stderr
        assert "copied" in copied.stdout
        send(fleet, owner, address, "after")
    for process in fleet.processes:
        process.ask_to_stop()
    for process in fleet.processes:
        assert process.stop() == 0

    with closing(services.connect_mysql(fleet.settings)) as rows, rows.cursor() as cursor:
        cursor.execute("CREATE TABLE of_a_newer_release (number INT)")
        put_back = paste(fleet, programs, PUT_BACK)
        cursor.execute("SHOW TABLES LIKE 'of_a_newer_release'")
        assert cursor.fetchall() == ()

    expected = {"body_never_stored": 2, "body_missing": 1} if between else {}
    assert findings(put_back.stdout) == expected, put_back.stdout + put_back.stderr
    assert put_back.returncode == (1 if between else 0), put_back.stderr
    if not between:
        has_another_bound(fleet, programs)
    api.close()
    api.launch()
    api.wait_until_ready(SEEN_WITHIN)
    with owning(api.http, token) as owner:
        kept = {item["subject"]: item["id"] for item in owner.listed()}
        assert kept.keys() == {"one", "large", "three"}
        assert owner.raw(kept["large"]).endswith(mail("large"))
        assert owner.raw(kept["three"]).endswith(mail("three"))


def has_another_bound(fleet: Fleet, programs: Path) -> None:
    """Paste what makes the queue anew, the bound set; then doctor has nothing to say of it."""
    bound = {"QUEUE_MAX_BYTES": "1GiB"}
    other = paste(fleet, programs, EMPTY, **bound)
    assert other.returncode == 1, other.stdout + other.stderr
    assert "0 mails wait" in other.stdout
    assert "QUEUE_MAX_BYTES" in other.stdout
    made = paste(fleet, programs, ANEW, **bound)
    assert made.returncode == 0, made.stdout + made.stderr
    assert paste(fleet, programs, EMPTY, **bound).returncode == 0


def _without_rows(lines: str) -> str:
    """Leave out what has been done: the copy of the rows."""
    begin, end = lines.index("mysqldump"), lines.index("mongodump")
    return lines[:begin] + lines[end:]


def test_a_copy_of_the_rows_that_fails_is_told(fleet: Fleet, programs: Path) -> None:
    fleet.settings["DB_PASSWORD"] = "not the password"

    copied = paste(fleet, programs, COPY)

    assert copied.returncode != 0
    assert "denied" in copied.stderr
    assert "copied" not in copied.stdout
