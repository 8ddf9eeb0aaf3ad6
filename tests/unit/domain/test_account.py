import pytest

from mailtape.domain.account import SERVICE_SCOPES, Principal, Role, Scope, known_scopes, scopes_of
from mailtape.domain.ids import OrganisationId

ORGANISATION = OrganisationId(b"o" * 16)


@pytest.mark.parametrize("role", Role)
def test_nobody_has_a_service_scope_by_signing_in(role: Role) -> None:
    assert not scopes_of(role) & SERVICE_SCOPES


def test_a_member_makes_no_tokens() -> None:
    assert scopes_of(Role.OWNER) - scopes_of(Role.MEMBER) == {
        Scope.TOKENS_READ,
        Scope.TOKENS_WRITE,
    }


def test_scopes_of_another_release_are_passed_over() -> None:
    assert known_scopes(["ingest", "rule:the-world", ""]) == {Scope.INGEST}


@pytest.mark.parametrize("scope", Scope)
def test_one_gives_what_one_has_and_an_administrator_service_scopes_besides(scope: Scope) -> None:
    poor = Principal(ORGANISATION, frozenset())
    rich = Principal(ORGANISATION, frozenset({scope}))
    administrator = Principal(ORGANISATION, frozenset(), platform_admin=True)

    assert not poor.may_give(scope)
    assert rich.may_give(scope)
    assert administrator.may_give(scope) is (scope in SERVICE_SCOPES)
