import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtape.domain.organisation import slug_of, slugs_for

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Acme", "acme"),
        ("  Acme & Söhne, GmbH.  ", "acme-sohne-gmbh"),
        ("xn--80ak6aa92e", "xn-80ak6aa92e"),
        ("---", "organisation"),
        ("日本", "organisation"),
        ("x" * 200, "x" * 40),
    ],
)
def test_a_name_becomes_a_label(name: str, slug: str) -> None:
    assert slug_of(name) == slug


@given(st.text(max_size=200))
def test_every_proposal_is_one_dns_label(name: str) -> None:
    proposals = list(islice(slugs_for(name), 10))

    assert all(LABEL.fullmatch(slug) for slug in proposals)
    assert all(slug[2:4] != "--" for slug in proposals)  # RFC 5890, section 2.3.1
    assert len(set(proposals)) == 10


@pytest.mark.parametrize("name", ["www", "Mail", "API", "local", "admin"])
def test_the_installations_own_names_are_not_proposed(name: str) -> None:
    assert name.lower() not in set(islice(slugs_for(name), 10))
