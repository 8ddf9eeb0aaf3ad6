"""What a process knows of its own grants, and what asking for them costs."""

import time

from fakes import an_organisation_id
from mailtape.domain.ids import OrganisationId
from mailtape.stores.own_grants import Grant, OwnGrants

NOW = 1_000_000


def _grant(
    organisation_id: OrganisationId, name: str, *, until: int = NOW + 1, committed: bool = False
) -> Grant:
    return Grant(organisation_id, (name, "a@x.example"), name.encode(), 1, until, committed)


def _known(grants: OwnGrants, organisation_id: OrganisationId) -> set[str]:
    return {grant.key[0] for grant in grants.of(organisation_id, NOW)}


def test_what_ran_out_and_what_was_given_back_counts_no_more() -> None:
    ours, theirs = an_organisation_id(), an_organisation_id()
    grants = OwnGrants()
    grants.add([_grant(ours, "live"), _grant(ours, "old", until=NOW), _grant(ours, "back")], 0)
    grants.add([_grant(ours, "committed", committed=True), _grant(theirs, "their back")], 0)

    grants.drop([b"back", b"committed", b"their back", b"never there"])

    assert _known(grants, ours) == {"live", "committed"}
    assert _known(grants, theirs) == set()
    assert grants.organisations(NOW) == {ours}
    assert grants.organisations(NOW + 1) == set()


def test_what_is_granted_again_counts_once_for_whom_it_is_now() -> None:
    before, now = an_organisation_id(), an_organisation_id()
    grants = OwnGrants()
    grants.add([_grant(before, "same")], NOW)

    grants.add([_grant(now, "same", until=NOW + 9)], NOW)

    assert _known(grants, before) == set()
    assert [grant.until_us for grant in grants.of(now, NOW)] == [NOW + 9]
    assert grants.organisations(NOW) == {now}


def test_one_organisation_costs_what_it_has_however_much_others_have() -> None:
    ours, theirs = an_organisation_id(), an_organisation_id()
    grants = OwnGrants()
    grants.add([_grant(ours, "ours")], NOW)
    grants.add([_grant(theirs, str(number)) for number in range(10_000)], NOW)

    took = min(_seconds(grants, ours) for _ in range(5))

    assert _known(grants, ours) == {"ours"}
    assert took < 0.0005


def _seconds(grants: OwnGrants, organisation_id: OrganisationId) -> float:
    begun = time.perf_counter()
    grants.of(organisation_id, NOW)
    return time.perf_counter() - begun
