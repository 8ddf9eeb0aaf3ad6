import pytest

from mailtape.domain.policy import action
from mailtape.domain.quota import Decision, Reason, Verdict
from mailtape_policy.protocol import reply


def test_what_is_taken_is_left_to_the_other_checks() -> None:
    assert action(Decision(Verdict.ACCEPT)) == "DUNNO"


@pytest.mark.parametrize("verdict", [Verdict.LATER, Verdict.NEVER])
@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_is_an_action_that_postfix_takes(reason: Reason, verdict: Verdict) -> None:
    code, enhanced, text = action(Decision(verdict, reason)).split(" ", 2)

    assert code[0] == enhanced[0]
    assert code[0] in "45"
    assert len(code) == 3
    assert text
    assert reply(f"{code} {enhanced} {text}").isascii()
