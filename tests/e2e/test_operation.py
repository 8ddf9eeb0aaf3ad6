"""What an operator does, with the real command on real folders."""

import json
import smtplib
import sqlite3
import stat
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forked import Forked
from served import Served, run, serving

pytestmark = pytest.mark.e2e

MAIL = b"From: a@example.org\r\nTo: qa@example.org\r\nSubject: %d\r\n\r\nwords %d\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[Served]:
    with serving(folder, tmp_path / "log") as started:
        yield started


def ask(served: Served, path: str, token: str) -> dict[str, object]:
    request = urllib.request.Request(
        served.http + path, headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def modes(folder: Path) -> dict[str, str]:
    return {path.name: stat.filemode(path.stat().st_mode) for path in folder.iterdir()}


def send(served: Served, count: int, enough: Callable[[], bool] = lambda: False) -> int:
    """Send up to `count` mails until there were enough; tell how many were acknowledged."""
    host, _, port = served.smtp.rpartition(":")
    with smtplib.SMTP(host, int(port)) as wire:
        for number in range(count):
            if enough():
                return number
            wire.sendmail("a@example.org", ["qa@example.org"], MAIL % (number, number))
    return count


def messages_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "mailtape.sqlite3")) as rows:
        (count,) = rows.execute("SELECT count(*) FROM messages").fetchone()
        return int(count)


def queued_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "queue.sqlite3")) as queue:
        (count,) = queue.execute("SELECT count(*) FROM mail").fetchone()
        return int(count)


def test_the_first_start_makes_up_what_is_missing_for_its_owner_alone(
    served: Served, folder: Path, tmp_path: Path
) -> None:
    made_up = json.loads((folder / "first-start.json").read_text())

    assert set(modes(folder).values()) == {"-rw-------"}
    assert stat.filemode(folder.stat().st_mode) == "drwx------"
    assert (folder / "token").read_text().strip() == made_up["api_token"]
    assert ask(served, "/messages", made_up["api_token"])["items"] == []
    assert str(folder / "first-start.json") in served.said
    secrets = [*made_up.values(), *json.loads((folder / "secrets.json").read_text()).values()]
    secrets.remove(made_up["admin_email"])
    shown = served.said + (tmp_path / "log").read_text()
    assert not any(secret in shown for secret in secrets)


def test_a_second_start_changes_nothing_that_the_first_made_up(
    folder: Path, tmp_path: Path
) -> None:
    with serving(folder, tmp_path / "log") as first:
        before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
        assert first.stop() == 0

    with serving(folder, tmp_path / "log") as second:
        assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
        assert ask(second, "/messages", (folder / "token").read_text().strip())["items"] == []


def test_what_was_given_is_made_sure_of_and_written_nowhere(folder: Path, tmp_path: Path) -> None:
    given = {
        "JWT_SECRET": "vN3kq0Zt7yXw2LrB9pHs4EdJ6mUcAf8G",
        "API_TOKEN_SALT": "Qe5Tz1Rb8WnYk3Vx7MgLs0Pd2Hj6CuFa",
        "MAILTAPE_ADMIN_EMAIL": "boss@example.com",
        "MAILTAPE_ADMIN_PASSWORD": "violet-otter-42-lamp",
        "MAILTAPE_API_TOKEN": "given-token-0123456789-0123456789",
    }
    with serving(folder, tmp_path / "log", APP_ENV="production", **given) as served:
        assert ask(served, "/messages", given["MAILTAPE_API_TOKEN"])["items"] == []
        assert not list(folder.glob("*.json"))
        assert not (folder / "token").exists()


def test_one_folder_has_one_server(
    served: Served, folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    second = mailtape.run(
        "serve", "--data", folder, "--http", "127.0.0.1:0", "--smtp", "127.0.0.1:0", cwd=tmp_path
    )

    assert second.returncode == 75
    assert "in use by a running server" in second.stderr
    for command in (
        ["migrate"],
        ["restore", folder],
        ["park", "retry", "1"],
        ["park", "drop", "1"],
    ):
        assert mailtape.run(*command, "--data", folder, cwd=tmp_path).returncode == 75, command
    assert ask(served, "/health", "")["status"]


def test_lmtp_listens_only_when_it_is_told_where(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log") as served:
        assert f"policy://{served.policy}" in served.said
        assert f"lmtp://{served.lmtp}" in served.said


def test_send_goes_through_the_wire(
    served: Served, folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    mail = tmp_path / "a.eml"
    mail.write_bytes(b"Subject: from a file\n\nwith lone line feeds\n")

    sent = mailtape.run("send", mail, "--to", "qa@example.org", "--smtp", served.smtp, cwd=tmp_path)
    refused = mailtape.run("send", mail, "--to", "nobody", "--smtp", served.smtp, cwd=tmp_path)

    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("250 2.")
    token = (folder / "token").read_text().strip()
    found = ask(served, "/messages/wait?address=qa@example.org&timeout=30", token)
    assert found["subject"] == "from a file"
    assert refused.returncode == 1
    assert refused.stderr.startswith("5")


def test_a_token_made_beside_the_server_works_at_once(
    served: Served, folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    made = mailtape.run(
        "generate-tokens", "--name", "post", "--scope", "messages:read", "--data", folder,
        cwd=tmp_path,
    )  # fmt: skip

    assert made.returncode == 0, made.stderr
    assert ask(served, "/messages", made.stdout.strip())["items"] == []
    assert made.stdout.strip() not in made.stderr


def test_an_administrator_made_beside_the_server_can_sign_in(
    served: Served, folder: Path, tmp_path: Path
) -> None:
    made = run(
        "create-admin", "--email", "Boss@Example.com", "--password-stdin", "--data", folder,
        cwd=tmp_path, stdin="violet-otter-42-lamp\n",
    )  # fmt: skip
    weak = run(
        "create-admin", "--email", "x@example.com", "--password-stdin", "--data", folder,
        cwd=tmp_path, stdin="short\n",
    )  # fmt: skip

    assert made.returncode == 0, made.stderr
    body = json.dumps({"email": "boss@example.com", "password": "violet-otter-42-lamp"})
    login = urllib.request.Request(
        served.http + "/auth/login", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(login, timeout=30) as answer:
        assert json.load(answer)["access_token"]
    assert weak.returncode == 1
    assert "short" not in weak.stderr.replace("shorter", "")


def test_a_backup_taken_while_mail_arrives_holds_all_that_was_acknowledged_before_it(
    served: Served, folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    acknowledged_before = send(served, 100)
    enough = threading.Event()
    sent: list[int] = []
    sending = threading.Thread(target=lambda: sent.append(send(served, 100_000, enough.is_set)))
    sending.start()
    backups = [tmp_path / f"backup-{number}" for number in range(3)]
    try:
        taken = [
            mailtape.run("backup", backup, "--data", folder, cwd=tmp_path) for backup in backups
        ]
    finally:
        enough.set()
        sending.join()

    assert [backup.returncode for backup in taken] == [0, 0, 0], taken
    assert sent[0] > 0, "mail arrived meanwhile"
    for backup in backups:
        checked = mailtape.run("verifydata", "--data", backup, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
        assert messages_in(backup) + queued_in(backup) >= acknowledged_before
        assert set(modes(backup).values()) == {"-rw-------"}


def test_a_restored_folder_serves_what_was_in_the_backup(
    folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    backup, fresh = tmp_path / "backup", tmp_path / "fresh"
    with serving(folder, tmp_path / "log") as served:
        send(served, 20)
        assert mailtape.run("backup", backup, "--data", folder, cwd=tmp_path).returncode == 0
        served.stop()
    token = (folder / "token").read_text().strip()

    restored = mailtape.run("restore", backup, "--data", fresh, cwd=tmp_path)

    assert restored.returncode == 0, restored.stderr
    assert set(modes(fresh).values()) == {"-rw-------"}
    with serving(fresh, tmp_path / "log") as served:
        last = ask(served, "/messages/wait?since=19&timeout=30", token)
        assert last["sequence"] == 20
        assert served.stop() == 0
    assert mailtape.run("verifydata", "--data", fresh, cwd=tmp_path).returncode == 0


def test_restore_sets_aside_and_never_deletes(
    folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    backup = tmp_path / "backup"
    assert mailtape.run("migrate", "--data", folder, cwd=tmp_path).returncode == 0
    with serving(folder, tmp_path / "log") as served:
        assert mailtape.run("backup", backup, "--data", folder, cwd=tmp_path).returncode == 0
        send(served, 3)
        served.stop()

    refused = mailtape.run("restore", backup, "--data", folder, cwd=tmp_path)
    forced = mailtape.run("restore", backup, "--data", folder, "--force", cwd=tmp_path)

    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert forced.returncode == 0, forced.stderr
    assert messages_in(folder) == 0
    (aside,) = folder.glob("before-restore-*")
    assert messages_in(aside) + queued_in(aside) == 3


def test_restore_refuses_a_damaged_backup(folder: Path, tmp_path: Path, mailtape: Forked) -> None:
    backup = tmp_path / "backup"
    with serving(folder, tmp_path / "log"):
        assert mailtape.run("backup", backup, "--data", folder, cwd=tmp_path).returncode == 0
    rows = backup / "mailtape.sqlite3"
    rows.write_bytes(rows.read_bytes()[:8192])

    refused = mailtape.run("restore", backup, "--data", tmp_path / "fresh", cwd=tmp_path)

    assert refused.returncode == 1
    assert str(rows) in refused.stderr
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["lock"]


def test_verifydata_ends_with_1_and_names_the_fault(
    folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    with serving(folder, tmp_path / "log") as served:
        send(served, 5)
        token = (folder / "token").read_text().strip()
        ask(served, "/messages/wait?since=4&timeout=30", token)
        served.stop()
    clean = mailtape.run("verifydata", "--data", folder, cwd=tmp_path)
    with closing(sqlite3.connect(folder / "mailtape.sqlite3")) as rows, rows:
        rows.execute("UPDATE usage SET emails = emails + 1")

    damaged = mailtape.run("verifydata", "--data", folder, cwd=tmp_path)

    assert (clean.returncode, clean.stdout.splitlines()[0]) == (
        0,
        "5 messages, 5 bodies, 0 attachments, 0 queued mails of 1 organisations: 0 findings",
    )
    assert damaged.returncode == 1
    assert damaged.stdout.startswith("usage_differs: organisation local ")


def test_verifydata_names_a_file_that_is_no_database(
    folder: Path, tmp_path: Path, mailtape: Forked
) -> None:
    assert mailtape.run("migrate", "--data", folder, cwd=tmp_path).returncode == 0
    bodies = folder / "bodies.sqlite3"
    bodies.write_bytes(bodies.read_bytes()[:4096] + b"\0" * 8192)

    damaged = mailtape.run("verifydata", "--data", folder, cwd=tmp_path)

    assert damaged.returncode == 1
    assert damaged.stdout == f"file_damaged: {bodies} is no whole SQLite file\n"
