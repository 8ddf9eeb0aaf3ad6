"""`/health` and `/metrics`, for whoever runs the installation; they tell nobody's secrets."""

from collections.abc import Mapping

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mailtape.api import errors
from mailtape.api.deps import GivenParts, Parts
from mailtape.api.schemas.operation import Health
from mailtape.domain.errors import Unavailable
from mailtape.metrics import REGISTRY
from mailtape.services import health
from mailtape.services.health import Question

router = APIRouter(tags=["Operation"])


@router.get("/health", response_model=Health, responses=errors.responses(Unavailable))
async def get_health(parts: GivenParts) -> Health | Response:
    """Answer 200 while messages can be read and mail is accepted."""
    works = await health.check(questions(parts))
    if all(works.values()):
        return Health(status="healthy")
    down = ", ".join(name for name, is_up in works.items() if not is_up)
    return errors.of_error(Unavailable(f"Not working at the moment: {down}."))


@router.get("/metrics", response_class=Response)
async def get_metrics(parts: GivenParts) -> Response:
    """Show this process's metrics in Prometheus' text format."""
    await health.measure(questions(parts), parts.queue)
    return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


def questions(parts: Parts) -> Mapping[str, Question]:
    """List the parts without which this process is of no use."""
    return {
        "rows": health.reading(parts.database),
        "writing": health.writing(parts.database),
        "queue": health.accepting(parts.queue),
    }
