"""The settings written down for people: the reference, `.env.example`, and what is in force."""

from collections.abc import Iterator

from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo

from mailtape.settings import SECTIONS, Settings, allowed, is_secret, size

MASK = "********"

_ENV_HEAD = """\
# Settings of Mailtape. Copy this file to .env, take the # off what you change.
# A variable of the environment goes before this file, a flag of the command line before both.
"""


def as_markdown() -> str:
    """Write the reference: a table a section, with name, values, default and meaning."""
    parts = []
    for section in SECTIONS:
        rows = [
            f"| `{name.upper()}` | {_cell(allowed(field))} | {_cell(_default(name))} |"
            f" {_cell(field.description or '')} |"
            for name, field in _fields(section)
        ]
        parts.append(
            "\n".join(
                [
                    f"### {section.__name__}",
                    "",
                    section.__doc__ or "",
                    "",
                    "| setting | value | default | meaning |",
                    "|---|---|---|---|",
                    *rows,
                ]
            )
        )
    return "\n\n".join(parts)


def as_env_example() -> str:
    """Write `.env.example`: every setting with its meaning, commented out."""
    parts = [_ENV_HEAD]
    for section in SECTIONS:
        parts.append(f"\n# {section.__name__}: {section.__doc__}\n")
        for name, field in _fields(section):
            parts.append(f"\n# {field.description}\n# Allowed: {allowed(field)}.\n")
            parts.append(f"#{name.upper()}={_written(field.default)}\n")
    return "".join(parts)


def as_lines(settings: Settings) -> Iterator[str]:
    """Write what is in force, one setting a line; secrets are masked, unset ones left empty."""
    for section in SECTIONS:
        for name, field in _fields(section):
            value = getattr(settings, name)
            shown = MASK if value is not None and is_secret(field) else _written(value)
            yield f"{name.upper()}={shown}"


def _fields(section: type) -> Iterator[tuple[str, FieldInfo]]:
    for name in section.__annotations__:
        yield name, Settings.model_fields[name]


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    return "unset" if default is None else f"`{_written(default)}`"


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case ByteSize():
            return size(value)
        case SecretStr():
            return MASK
        case tuple():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
