"""Who calls, and what they may do: roles of people, scopes of tokens.

A scope is what a route asks for. A signed-in person has the scopes of their role in the
organisation they work in; a token has the scopes it was made with. Service scopes belong to
programs alone: nobody has them by signing in.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from mailtape.domain.ids import OrganisationId, SessionId, TokenId, UserId

LOCAL_SLUG = "local"
"""The organisation that every installation has from its first start."""


class Status(StrEnum):
    """Whether a user or an organisation may act."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class Scope(StrEnum):
    """What a caller may be allowed to do."""

    MESSAGES_READ = "messages:read"
    MESSAGES_WRITE = "messages:write"
    ADDRESSES_READ = "addresses:read"
    ADDRESSES_WRITE = "addresses:write"
    TOKENS_READ = "tokens:read"
    TOKENS_WRITE = "tokens:write"
    USAGE_READ = "usage:read"
    INGEST = "ingest"
    POLICY = "policy"


SERVICE_SCOPES = frozenset({Scope.INGEST, Scope.POLICY})
"""For programs beside the platform: they act on mail of every organisation."""
TENANT_SCOPES = frozenset(Scope) - SERVICE_SCOPES


class Role(StrEnum):
    """A person's part in an organisation."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


def scopes_of(role: Role) -> frozenset[Scope]:
    """Name the scopes of a signed-in person; tokens outlive their maker, so members make none."""
    match role:
        case Role.OWNER | Role.ADMIN:
            return TENANT_SCOPES
        case Role.MEMBER:
            return TENANT_SCOPES - {Scope.TOKENS_READ, Scope.TOKENS_WRITE}
        case _:
            assert_never(role)


def known_scopes(names: list[str]) -> frozenset[Scope]:
    """Read the scopes of a stored token; those of another release are passed over."""
    known = frozenset(Scope)
    return frozenset(Scope(name) for name in names if name in known)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever makes a request, as of this moment; never kept beyond the request."""

    organisation_id: OrganisationId
    """The organisation that the request reads and changes; no other."""
    scopes: frozenset[Scope]
    user_id: UserId | None = None
    """None for a token."""
    role: Role | None = None
    """None for a token."""
    platform_admin: bool = False
    """Never true for a token."""
    session_id: SessionId | None = None
    token_id: TokenId | None = None

    def may_give(self, scope: Scope) -> bool:
        """Tell whether a token with this scope may be made in this name.

        Nobody gives what they do not have; only a platform administrator brings a service scope
        into the world.
        """
        return scope in self.scopes or (self.platform_admin and scope in SERVICE_SCOPES)
