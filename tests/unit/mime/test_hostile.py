"""Hostile and real mail through everything a worker does."""

import json
import resource
import time
from pathlib import Path

import pytest

from corpus.hostile import families, variants
from corpus.samples import samples
from mailtape.mime.headers import split
from mailtape.mime.limits import DEFAULT
from mailtape.mime.pack import pack, unpack_content
from mailtape.mime.understand import Understood, understand

CORPUS = Path(__file__).parents[2] / "corpus"
SECONDS = 2.0
"""Of CPU for one mail: five times what the slowest takes on a slow machine."""
MEGABYTES = 300


def understood_in_bounds(raw: bytes) -> Understood:
    started = time.process_time()
    understood = understand(raw)
    packed = pack(raw, understood)
    assert time.process_time() - started < SECONDS
    assert unpack_content(packed.content.zstd) == understood.content
    return understood


@pytest.mark.parametrize("family", families())
def test_hostile_mail_costs_no_more_than_its_bounds(family: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for name, raw in variants(seed=20, only=family):
        understood = understood_in_bounds(raw)

        assert "unparsed" not in understood.content.defects, name

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024


def test_there_are_twenty_families_and_each_names_what_it_broke() -> None:
    assert len(families()) == 20
    assert all(family.__doc__ for family in families().values())


def test_the_same_seed_makes_the_same_mails() -> None:
    assert list(variants(3, per_family=1)) == list(variants(3, per_family=1))


def test_no_bare_line_end_injects_a_header() -> None:
    for _, raw in variants(1, per_family=60, only="bare_line_ends_in_header"):
        names = {name for name, _ in understand(raw).content.headers}

        assert names <= {"From", "Subject", "To", "X-Last"}
        assert "From" in names


def test_no_bare_line_end_injects_a_part() -> None:
    for _, raw in variants(1, per_family=60, only="bare_line_ends_in_parts"):
        content = understand(raw).content

        assert content.html is None
        assert "bare_newline" in content.defects


def test_real_mail_is_understood() -> None:
    for name, raw in samples():
        understood = understood_in_bounds(raw)

        assert "unparsed" not in understood.content.defects, name
        assert understood.content.headers == split(raw, DEFAULT).fields
        assert understood.content.text is not None or understood.content.attachments, name


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.eml")), ids=lambda path: path.stem)
def test_reads_a_kept_mail_as_it_always_did(path: Path) -> None:
    raw = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))

    understood = understand(raw)

    content, summary = understood.content, understood.summary
    assert {
        "from": [summary.sender.name, summary.sender.address],
        "to": [[person.name, person.address] for person in summary.to],
        "subject": summary.subject,
        "snippet": summary.snippet,
        "headers": [list(header) for header in content.headers],
        "text": content.text,
        "html": content.html,
        "attachments": [
            [facts.id, facts.filename, facts.content_type, facts.size, facts.content_id]
            for facts in content.attachments
        ],
        "defects": list(content.defects),
    } == expected
