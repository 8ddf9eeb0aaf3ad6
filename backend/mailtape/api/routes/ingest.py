"""`POST /ingest`: mail handed over by HTTP, kept by the same step as on the wire."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from mailtape.api import auth, errors
from mailtape.api.deps import GivenClient, GivenParts, Now
from mailtape.api.schemas.ingest import IngestReceipt
from mailtape.domain.errors import Conflict, Invalid, TooMany, Unavailable
from mailtape.services import ingest

router = APIRouter(tags=["Ingest"])


@router.post(
    "/ingest",
    status_code=202,
    response_model=IngestReceipt,
    responses=errors.responses(Conflict, Invalid, TooMany, Unavailable),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def ingest_mail(
    request: Request,
    parts: GivenParts,
    principal: auth.Ingest,
    client: GivenClient,
    now: Now,
    recipient: Annotated[
        list[Annotated[str, Query(max_length=320)]],
        Query(min_length=1, description="Give it once for each."),
    ],
    sender: Annotated[
        str, Query(max_length=320, description="The reverse path; empty for a bounce.")
    ] = "",
    idempotency_key: Annotated[
        str,
        Header(
            max_length=255,
            pattern=r"^[\x21-\x7e]*$",
            description="The same mail under the same key becomes one message, however often.",
        ),
    ] = "",
) -> IngestReceipt | Response:
    """Hand over a mail. 202 means that it is durable for every recipient marked `accepted`.

    When no recipient is accepted nothing is kept. The answer is 503 when one of them cannot be told
    about; 429 when limits refuse all of them for now, with `Retry-After` until the first is free
    again and its name as `code`; and else 422. With 422 and 429 `errors` has the reply to each.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
        "message/rfc822"
    ):
        return errors.problem(415, "unsupported_media_type", "The body must be message/rfc822.")
    most = parts.settings.most_recipients
    if len(recipient) > most:
        raise Invalid(f"A mail has at most {most} recipients.", field="recipient")
    raw = await request.body()  # bounded on the way by `api.middleware.BodyLimit`
    if not raw:
        raise Invalid("The body is empty.", code="empty_body")
    done = await ingest.ingest(
        parts.queue,
        parts.quota,
        parts.database,
        ingest.Submission(raw, sender, tuple(recipient), client.address),
        organisation_id=principal.organisation_id,
        idempotency_key=idempotency_key,
        now=now,
    )
    if done.id is None:
        faults = [
            {"detail": r.status, "field": "recipient", "code": "recipient_refused"}
            for r in done.recipients
        ]
        if done.limited is not None:
            return errors.of_error(done.limited, faults)
        return errors.problem(422, "no_recipient", "No recipient takes this mail.", errors=faults)
    return IngestReceipt.of(done.id, done.recipients)
