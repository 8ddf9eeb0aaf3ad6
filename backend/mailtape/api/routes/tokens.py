"""API and service tokens."""

from fastapi import APIRouter

from mailtape.api.auth import TokensRead, TokensWrite
from mailtape.api.deps import GivenParts, Now, read_id
from mailtape.api.errors import responses
from mailtape.api.paging import Page, PageParams, page_of
from mailtape.api.schemas.tokens import NewTokenView, TokenRequest, TokenView
from mailtape.domain.errors import NotFound
from mailtape.domain.ids import TokenId
from mailtape.services import tokens

router = APIRouter(prefix="/tokens", tags=["Tokens"])


@router.get("")
async def list_tokens(
    principal: TokensRead, parts: GivenParts, page: PageParams
) -> Page[TokenView]:
    """List the organisation's tokens, newest first; never their texts."""
    found = await tokens.find(parts.database, principal, after=page.after, most=page.fetch)
    return page_of(found, page, key=lambda row: row.id, show=TokenView.of)


@router.post("", status_code=201)
async def create_token(
    body: TokenRequest, principal: TokensWrite, parts: GivenParts, now: Now
) -> NewTokenView:
    """Make a token; its text is shown this once.

    You give only scopes that you have (`scope_not_yours`); the service scopes `ingest` and
    `policy` come from platform administrators.
    """
    made = await tokens.create(
        parts.database,
        principal,
        salt=parts.settings.keys.token_salt,
        name=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
        now=now,
    )
    return NewTokenView.of_new(made)


@router.delete("/{uuid}", status_code=204, responses=responses(NotFound))
async def revoke_token(uuid: str, principal: TokensWrite, parts: GivenParts, now: Now) -> None:
    """Revoke a token; it is refused from now on."""
    await tokens.revoke(parts.database, parts.wakeups, principal, TokenId(read_id(uuid)), now)
