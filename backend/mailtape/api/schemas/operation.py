"""Health as the API shows it."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """Everything that is needed to serve works."""

    status: Literal["healthy"]
