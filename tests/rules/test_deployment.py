"""The lines of the deployment page are pasted: they say all that they need themselves."""

import re
import subprocess
from pathlib import Path

import pytest

from served import environment, run

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


@pytest.mark.parametrize("alert", ALERTS)
def test_troubleshooting_says_what_to_do_about_an_alert(alert: str) -> None:
    assert re.search(rf"^\| `{alert}` \|", TROUBLESHOOTING, re.MULTILINE)
