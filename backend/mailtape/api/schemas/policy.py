"""What a mail server asks before it takes a mail, and the answer."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from mailtape.domain import policy
from mailtape.domain.policy import PolicyRequest
from mailtape.domain.quota import Decision

_ADDRESS = 320
_NAME = 255


class PolicyQuestion(BaseModel):
    """One stage of one mail, in the words of Postfix's policy delegation."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "protocol_state": "RCPT",
                    "recipient": "qa@mail.example.com",
                    "sender": "shop@example.org",
                    "client_address": "192.0.2.1",
                    "size": 5120,
                    "instance": "5afd.6b00f686.1d54d.0",
                }
            ]
        }
    )

    protocol_state: str = Field(
        max_length=32, description="`RCPT`, `DATA`, `END-OF-MESSAGE`, or another stage."
    )
    recipient: str = Field(
        max_length=_ADDRESS,
        description="Empty at a stage that is not about one recipient.",
    )
    sender: str = Field(default="", max_length=_ADDRESS)
    client_address: str = Field(default="", max_length=_NAME)
    size: int = Field(default=0, ge=0, lt=2**63, description="Octets; 0 when it is not known.")
    instance: str = Field(
        default="",
        max_length=_NAME,
        description="The same in all questions about one mail; without it no room is held.",
    )
    queue_id: str = Field(
        default="", max_length=_NAME, description="By which LMTP knows the mail, once there is one."
    )

    def asked(self) -> PolicyRequest:
        """Give it as every door asks it."""
        return PolicyRequest(**self.model_dump())


class PolicyAnswer(BaseModel):
    """What to do with the mail, so far."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "action": "452 4.2.2 monthly messages are used up",
                "reason": "monthly_mails",
            }
        }
    )

    action: str = Field(description="`DUNNO`, or the reply that SMTP is to give.")
    reason: str = Field(description="`accepted`, or why not.")

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """Show a decision."""
        return cls(action=policy.action(decision), reason=decision.reason or "accepted")
