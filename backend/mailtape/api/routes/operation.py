"""`/health` and `/metrics`, for whoever runs the installation; they tell nobody's secrets."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mailtape.api import errors
from mailtape.api.deps import GivenParts
from mailtape.api.schemas.operation import Health
from mailtape.domain.errors import Unavailable
from mailtape.metrics import QUEUE_DEPTH, REGISTRY
from mailtape.services import health

router = APIRouter(tags=["Operation"])


@router.get("/health", response_model=Health, responses=errors.responses(Unavailable))
async def get_health(parts: GivenParts) -> Health | Response:
    """Answer 200 while messages can be read and mail is accepted."""
    works = await health.check(
        {
            "rows": health.reading(parts.database),
            "writing": health.writing(parts.database),
            "queue": health.accepting(parts.queue),
        }
    )
    if all(works.values()):
        return Health(status="healthy")
    down = ", ".join(name for name, is_up in works.items() if not is_up)
    return errors.of_error(Unavailable(f"Not working at the moment: {down}."))


@router.get("/metrics", response_class=Response)
async def get_metrics(parts: GivenParts) -> Response:
    """Show this process's metrics in Prometheus' text format."""
    depth = await parts.queue.depth()
    QUEUE_DEPTH.labels("waiting").set(depth.waiting)
    QUEUE_DEPTH.labels("leased").set(depth.leased)
    QUEUE_DEPTH.labels("parked").set(depth.parked)
    return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
