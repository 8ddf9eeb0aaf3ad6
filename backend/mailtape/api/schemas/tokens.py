"""API and service tokens."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mailtape.api.schemas.values import Label, Moment
from mailtape.domain import ids
from mailtape.domain.account import Scope
from mailtape.rows.tokens import ApiToken
from mailtape.services.tokens import NewToken


class TokenRequest(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "continuous integration", "scopes": ["messages:read"]}]
        }
    )

    name: Label
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    expires_at: Moment | None = Field(default=None, description="Without it, good until revoked.")


class TokenView(BaseModel):
    """A token, without its text."""

    uuid: str
    name: str
    scopes: list[str]
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None = Field(description="To the hour.")

    @classmethod
    def of(cls, row: ApiToken) -> "TokenView":
        """Show a token."""
        return cls(
            uuid=ids.to_text(row.id),
            name=row.name,
            scopes=row.scopes,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
        )


class NewTokenView(TokenView):
    """A token just made."""

    token: str = Field(description="Shown this once; keep it.")

    @classmethod
    def of_new(cls, made: NewToken) -> "NewTokenView":
        """Show a token with its text."""
        return cls(**TokenView.of(made.row).model_dump(), token=made.text)
