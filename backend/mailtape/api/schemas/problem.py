"""The form of every refusal: RFC 9457, with a code for programs."""

from pydantic import BaseModel, ConfigDict, Field


class Fault(BaseModel):
    """One rule that the request breaks."""

    detail: str
    field: str = Field(description="Where: a parameter's name, or the way into the body.")
    code: str


class Problem(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "There is no such thing.",
                    "code": "not_found",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str = Field(description="For people; may change.")
    code: str = Field(description="For programs; stays.")
    errors: list[Fault] | None = Field(default=None, description="What exactly, where it helps.")
