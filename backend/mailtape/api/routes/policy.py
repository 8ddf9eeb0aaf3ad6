"""`POST /policy/check`: the policy daemon's question, for mail servers that are not Postfix."""

from fastapi import APIRouter

from mailtape.api import auth
from mailtape.api.deps import GivenParts
from mailtape.api.schemas.policy import PolicyAnswer, PolicyQuestion
from mailtape.services import policy

router = APIRouter(tags=["Policy"])


@router.post("/policy/check")
async def check_policy(
    parts: GivenParts, _principal: auth.PolicyCheck, question: PolicyQuestion
) -> PolicyAnswer:
    """Ask whether a mail would be taken, stage by stage.

    What cannot be decided is put off, unless the operator has chosen otherwise.
    """
    decision = await policy.check(
        parts.quota,
        question.asked(),
        domain=parts.settings.domain,
        within=parts.settings.policy_answer_seconds,
        accept_blind=parts.settings.accept_blind,
    )
    return PolicyAnswer.of(decision)
