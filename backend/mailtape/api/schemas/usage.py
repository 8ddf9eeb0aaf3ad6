"""Usage as the API shows it."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from mailtape.services.usage import Report


class Used(BaseModel):
    """One figure beside its limit."""

    used: int
    limit: int | None = Field(description="null when there is none.")


class UsageReport(BaseModel):
    """A calendar month in UTC."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "period": "2026-11",
                "emails": {"used": 412, "limit": 1000},
                "storage_bytes": {"used": 2_521_440, "limit": 268_435_456},
                "api_calls": {"used": 0, "limit": 50_000},
            }
        }
    )

    period: str
    emails: Used = Field(description="Messages stored this month; deleting gives none back.")
    storage_bytes: Used = Field(description="Raw bytes kept now.")
    api_calls: Used

    @classmethod
    def of(cls, report: Report) -> Self:
        """Show a report."""
        limits = report.limits
        return cls(
            period=report.period,
            emails=Used(used=report.emails, limit=limits.emails_per_month),
            storage_bytes=Used(used=report.storage_bytes, limit=limits.storage_bytes),
            api_calls=Used(used=report.api_calls, limit=limits.api_calls_per_month),
        )
