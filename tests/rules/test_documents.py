"""The documents say what is so: names that import, links that lead somewhere, a short README."""

import importlib
import re
from pathlib import Path

import pytest

from installation import Installation

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`(mailtape\w*(?:\.\w+)*)(?::(\w+(?:\.\w+)*))?`")
ARCHITECTURE = (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
OUR_FILE = re.compile(r"`((?:backend|docs|smtp_ingest|tests|workers)/[\w./*-]+)`")
PAGES = [p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]
STEPS = re.findall(r"^\| (\d+) \|(.*)", ARCHITECTURE, re.MULTILINE)
NAMES = {
    *NAME.findall("\n".join(rest for _, rest in STEPS)),
    *((module, attribute) for module, attribute in NAME.findall(ARCHITECTURE) if attribute),
}


@pytest.mark.parametrize(("module", "attribute"), sorted(NAMES))
def test_a_name_in_the_architecture_page_imports(module: str, attribute: str) -> None:
    found: object = importlib.import_module(module)

    for part in attribute.split(".") if attribute else []:
        found = getattr(found, part)


def test_every_step_of_the_flow_index_names_its_function() -> None:
    assert [int(number) for number, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert len(STEPS) >= 7
    assert [number for number, rest in STEPS if not NAME.search(rest)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = CODE.sub("", (ROOT / page).read_text("utf-8"))
    targets = [t for t in LINK.findall(text) if not re.match(r"[a-z]+:|#", t)]

    lost = [t for t in targets if not (ROOT / page).parent.joinpath(t.partition("#")[0]).exists()]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = OUR_FILE.findall((ROOT / page).read_text("utf-8"))

    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 80


def test_the_api_page_lists_every_route_and_no_other(installation: Installation) -> None:
    page = (ROOT / "docs/API.md").read_text("utf-8")
    documented = re.findall(r"^\| `([A-Z]+ /\S+)` \|", page, re.MULTILINE)

    paths = installation.app.openapi()["paths"]
    routes = [f"{method.upper()} {path}" for path, calls in paths.items() for method in calls]
    assert sorted(documented) == sorted(routes)
