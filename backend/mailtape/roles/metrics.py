"""Health and metrics of one process at an address of its own: `/health` and `/metrics`."""

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailtape.metrics import REGISTRY
from mailtape.ports.queue import Queue
from mailtape.services import health
from mailtape.services.health import Question


def create_app(questions: Mapping[str, Question], queue: Queue | None = None) -> Starlette:
    """Make the application; `questions` are the parts without which the process is of no use.

    Where there is a `queue`, its depth is shown too.
    """

    async def get_health(_request: Request) -> Response:
        works = await health.check(questions)
        if all(works.values()):
            return JSONResponse({"status": "healthy"})
        down = [name for name, is_up in works.items() if not is_up]
        return JSONResponse(
            {"status": "unhealthy", "down": down}, status_code=503, headers={"Retry-After": "5"}
        )

    async def get_metrics(_request: Request) -> Response:
        await health.measure(questions, queue)
        return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(
        routes=[Route("/health", get_health), Route("/metrics", get_metrics)],
    )
