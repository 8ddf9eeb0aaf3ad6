"""The lines of the deployment page are pasted: they say all that they need themselves."""

import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from served import MAILTAPE, environment, run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/DEPLOYMENT.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TROUBLESHOOTING = (ROOT / "docs/TROUBLESHOOTING.md").read_text("utf-8")
ALERTS = re.findall(
    r"- alert: (\w+)", (ROOT / "deploy/prometheus/mailtape.rules.yml").read_text("utf-8")
)
PER_PROCESS = {"METRICS_LISTEN", "HTTP_LISTEN"}


def sample() -> str:
    """The file of settings that the page shows, with secrets in the place of dots."""
    (found,) = [block for block in BLOCKS if block.startswith("APP_ENV=")]
    for letter in "ab":
        found = found.replace("…", letter * 48, 1)
    return found


def sourced(lines: str) -> dict[str, str]:
    """Have a shell read settings; gives those it then has, and no others."""
    names = sorted(set(re.findall(r"^(\w+)=", lines, re.MULTILINE)))
    show = "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    shell = ["bash", "-eu", "-c", f"{lines}\n{show}"]
    said = subprocess.run(
        shell, env=environment(), capture_output=True, text=True, timeout=10, check=True
    )
    return dict(zip(names, said.stdout.split("\0"), strict=False))


def test_every_variable_that_a_line_uses_is_set_by_the_settings_of_the_page() -> None:
    used = {name for block in BLOCKS for name in re.findall(r"\$\{?([A-Z][A-Z_]+)", block)}

    assert {"DB_HOST", "MONGODB_URL"} <= used
    assert used - sourced(sample()).keys() == set()


def test_the_settings_of_the_page_are_right_and_let_postfix_and_prometheus_in(
    tmp_path: Path,
) -> None:
    settings = sourced(sample())

    checked = run("config", "check", cwd=tmp_path, settings=settings)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert settings["LMTP_LISTEN"]
    said = set(re.findall(r"METRICS_LISTEN=\S+ > /etc/mailtape/mailtape-(\w+)@1.env", PAGE))
    assert said == {"api", "ingest", "policy", "worker"}


def test_no_setting_that_only_one_process_can_have_is_shared() -> None:
    assert not PER_PROCESS & sourced(sample()).keys()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_shell_understands_every_block(block: str) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=block, capture_output=True, text=True, timeout=10, check=False
    )

    assert checked.returncode == 0, checked.stderr


def installed(folder: Path, settings: str) -> None:
    """Install the program as the page does, with a file of these settings."""
    env, program = folder / "mailtape.env", folder / "mailtape"
    env.write_text(settings)
    text = (ROOT / "deploy/mailtape").read_text("utf-8")
    text = text.replace("/etc/mailtape/mailtape.env", str(env))
    program.write_text(text.replace("/opt/mailtape/.venv/bin/mailtape", str(MAILTAPE)))
    program.chmod(0o755)


def test_the_program_that_the_page_installs_has_the_settings_of_the_units(tmp_path: Path) -> None:
    installed(tmp_path, sample())

    shown = subprocess.run(
        [tmp_path / "mailtape", "config", "show"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert re.search(r"^DB_HOST=10\.0\.0\.10\b", shown.stdout, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {"mailtape", "mailtape.env"}


def test_no_block_runs_another_program_than_the_one_that_was_installed() -> None:
    before, _, after = PAGE.partition("install -m 0755 deploy/mailtape /usr/local/bin/mailtape\n")
    command = re.compile(r"^ *([^\s`]*)\bmailtape [a-z-]+(?: [-|]| &&|$)", re.MULTILINE)

    assert not command.search(before)
    assert command.findall(after) == [""] * 7


def test_who_is_made_at_the_servers_is_who_signs_in_there() -> None:
    ours = sourced(sample())
    mongo, rabbit = urlsplit(ours["MONGODB_URL"]), urlsplit(ours["RABBITMQ_URL"])

    (user,) = re.findall(r"getSiblingDB\('(.+?)'\).createUser\({user: '(.+?)', .*'(.+)'\]}", PAGE)
    assert user == (parse_qs(mongo.query)["authSource"][0], mongo.username, "readWrite")
    assert user[0] == ours["MONGODB_DATABASE"]
    assert f"add_vhost {rabbit.path[1:]}\n" in PAGE
    assert f"add_user {rabbit.username} " in PAGE
    assert f"set_permissions --vhost {rabbit.path[1:]} {rabbit.username} " in PAGE
    assert f"GRANT ALL ON {ours['DB_NAME']}.* TO '{ours['DB_USER']}'@" in PAGE


@pytest.mark.parametrize("alert", ALERTS)
def test_troubleshooting_says_what_to_do_about_an_alert(alert: str) -> None:
    assert re.search(rf"^\| `{alert}` \|", TROUBLESHOOTING, re.MULTILINE)
