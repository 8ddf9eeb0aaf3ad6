"""Registering, signing in, sessions."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mailtape.api.schemas.values import Email, Label, Moment
from mailtape.domain import ids
from mailtape.rows.sessions import SessionRow
from mailtape.services.passwords import MOST_CHARACTERS
from mailtape.services.sessions import MOST_REFRESH_CHARACTERS, Grant, Issuer

Password = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class LoginRequest(BaseModel):
    """Who somebody is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"email": "ada@example.com", "password": "a long and private sentence"}]
        }
    )

    email: Email
    password: Password
    cookie: bool = Field(
        default=True,
        description="Whether the refresh token comes as a cookie; otherwise it is in the answer.",
    )


class RegisterRequest(LoginRequest):
    """Who somebody is, and the organisation they found."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "email": "ada@example.com",
                    "password": "a long and private sentence",
                    "organization": "Analytical Engines",
                }
            ]
        }
    )

    password: Password = Field(description="8 to 1,000 characters, none of the common ones.")
    organization: Label


class RefreshRequest(BaseModel):
    """The refresh token, of a client that keeps no cookies."""

    refresh_token: str | None = Field(default=None, max_length=MOST_REFRESH_CHARACTERS)


class UserView(BaseModel):
    """A person, in the organisation they work in."""

    uuid: str
    email: str
    role: str
    email_verified: bool


class OrganizationView(BaseModel):
    """An organisation."""

    uuid: str
    name: str
    slug: str = Field(description="Its subdomain.")
    tier: str


class SignInView(BaseModel):
    """Two tokens, and whose they are."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a scheme
    expires_in: int = Field(description="Seconds until the access token expires.")
    refresh_token: str | None = Field(
        default=None, description="Only for clients that keep no cookies."
    )
    user: UserView
    organization: OrganizationView

    @classmethod
    def of(cls, grant: Grant, issuer: Issuer, *, in_body: bool) -> "SignInView":
        """Show a grant."""
        return cls(
            access_token=grant.access_token(issuer),
            expires_in=int(issuer.rules.access_lifetime.total_seconds()),
            refresh_token=grant.refresh_token if in_body else None,
            user=UserView(
                uuid=ids.to_text(grant.user.id),
                email=grant.user.email,
                role=grant.role,
                email_verified=grant.user.email_verified,
            ),
            organization=OrganizationView(
                uuid=ids.to_text(grant.organisation.id),
                name=grant.organisation.name,
                slug=grant.organisation.slug,
                tier=grant.organisation.tier,
            ),
        )


class SessionView(BaseModel):
    """A device that has signed in."""

    uuid: str
    user_agent: str
    client_address: str
    created_at: Moment
    last_seen_at: Moment = Field(description="When it last asked for an access token.")
    current: bool = Field(description="Whether it is the one that asks.")

    @classmethod
    def of(cls, row: SessionRow, *, current: bytes) -> "SessionView":
        """Show a session."""
        return cls(
            uuid=ids.to_text(row.id),
            user_agent=row.user_agent,
            client_address=row.client_address,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            current=row.id == current,
        )
