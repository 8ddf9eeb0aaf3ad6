"""What an operator can set: environment variables, and a `.env` file in the working directory.

Read once, when a process starts, and handed on as plain values; nothing else of Mailtape looks at
the environment. The environment goes before `.env`, a flag of the command line before both. Each
setting has a unit, a bound, a default that is safe in production and one sentence; the reference,
`.env.example` and the message about a wrong value are all made from these. An empty value is the
same as none, except where the sentence says otherwise.

A wrong setting is never repaired or passed over: `WrongSettings` holds one sentence for each fault.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from mailtape.foreign_settings import name_faults
from mailtape.mime.limits import DEADLINE_SECONDS
from mailtape.server_urls import AMQP, MONGODB, REDIS, ServerUrl

KIB = 2**10
MIB = 2**20
GIB = 2**30

PRODUCTION_SECRET_LENGTH = 32
"""Characters; HS256 is no stronger than its key (RFC 7518, section 3.2)."""

_EMPTY_MEANS_SOMETHING = frozenset({"capture_organization"})


class WrongSettings(Exception):
    """The settings cannot be used; `faults` has a sentence for each reason."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts."""

    name: str


@dataclass(frozen=True, slots=True)
class Form:
    """How a value that is no plain number is written."""

    words: str


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to listen on; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `127.0.0.1:8025`, `[::1]:8025` or `name:8025`.

        Raises:
            ValueError: it is written otherwise.
        """
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets")
        if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65_535):
            raise ValueError("not HOST:PORT")
        return cls(host, int(port))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _read_address(value: object) -> object:
    return HostPort.parse(value) if isinstance(value, str) else value


def _read_networks(value: object) -> object:
    if isinstance(value, str):
        return tuple(ip_network(word) for word in value.replace(",", " ").split())
    return value


def _server(kind: ServerUrl) -> AfterValidator:
    """Take only addresses of a server that the driver behind the setting understands."""

    def check(value: SecretStr | None) -> SecretStr | None:
        if value is not None and not kind.fits(value.get_secret_value()):
            raise ValueError("no such address")
        return value

    return AfterValidator(check)


def _check_token(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]{32,200}", value.get_secret_value()):
        raise ValueError("not a token")
    return value


_ENCODED = "whose password has its special characters percent-encoded, such as / as %2F"
_LISTEN = Form("HOST:PORT, such as 127.0.0.1:1025 or [::1]:1025")
Listen = Annotated[HostPort, BeforeValidator(_read_address), _LISTEN]
OptionalListen = Annotated[HostPort | None, BeforeValidator(_read_address), _LISTEN]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(_read_networks),
    Form("networks separated by commas, such as 127.0.0.0/8,::1/128"),
]
Seconds = Annotated[int, Unit("seconds")]
Minutes = Annotated[int, Unit("minutes")]
Days = Annotated[int, Unit("days")]
Characters = Annotated[int, Unit("characters")]
Url = Annotated[
    str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$"), Form("an http:// or https:// address")
]
OptionalSecret = Annotated[SecretStr | None, Field(min_length=16, max_length=1024)]
OptionalFile = Annotated[Path | None, Form("the path of a PEM file")]


class _Section(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", frozen=True, enable_decoding=False)


class Storage(_Section):
    """Where the embedded default keeps what it is given."""

    data_dir: Annotated[Path, Form("a folder")] = Field(
        default=Path("var"),
        description="Folder of everything that is kept; made with mode 0700 when it is missing.",
    )
    queue_max_bytes: ByteSize = Field(
        default=ByteSize(4 * GIB),
        ge=MIB,
        le=2**50,
        description=(
            "Accepted mail that may wait to be understood; beyond it SMTP answers 452. With"
            " RABBITMQ_URL mail over 256KiB is counted by itself, and so is the rest."
        ),
    )


class Services(_Section):
    """The servers of a fleet; what has no setting here is kept in SQLite under DATA_DIR."""

    db_host: Annotated[str | None, Field(min_length=1, max_length=255), Form("a host name")] = (
        Field(default=None, description="MySQL 8 or MariaDB 10.11, or later, which keeps the rows.")
    )
    db_port: Annotated[int, Form("a port from 1 to 65535")] = Field(
        default=3306, ge=1, le=65_535, description="Port of DB_HOST."
    )
    db_user: Annotated[str, Field(min_length=1, max_length=80), Form("a name")] = Field(
        default="mailtape", description="Who signs in at DB_HOST."
    )
    db_password: Annotated[
        SecretStr | None, Field(min_length=1, max_length=1024), Form("1 to 1024 characters")
    ] = Field(default=None, description="The password of DB_USER.")
    db_name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$"), Form("up to 64 of A-Z a-z 0-9 _")
    ] = Field(default="mailtape", description="The database at DB_HOST; it must exist.")
    db_connections: Annotated[int, Unit("connections")] = Field(
        default=10,
        ge=2,
        le=1000,
        description="Connections to DB_HOST of one process; its max_connections must cover all.",
    )
    mongodb_url: Annotated[
        SecretStr | None, _server(MONGODB), Form(f"a mongodb:// address {_ENCODED}")
    ] = Field(default=None, description="MongoDB, which keeps bodies and attachments.")
    mongodb_database: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$"), Form("up to 63 of A-Z a-z 0-9 _ -")
    ] = Field(default="mailtape", description="The database at MONGODB_URL.")
    redis_url: Annotated[
        SecretStr | None,
        _server(REDIS),
        Form(f"a redis:// or rediss:// address {_ENCODED}"),
    ] = Field(
        default=None,
        description=(
            "Redis, which keeps counters and limits; without it a fleet keeps them at DB_HOST."
        ),
    )
    rabbitmq_url: Annotated[
        SecretStr | None, _server(AMQP), Form(f"an amqp:// or amqps:// address {_ENCODED}")
    ] = Field(default=None, description="RabbitMQ, which keeps accepted mail until it is stored.")
    rabbitmq_queue: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$"), Form("up to 100 of A-Z a-z 0-9 . _ -")
    ] = Field(
        default="mailtape",
        description="Name of the queue at RABBITMQ_URL; exchanges and side queues begin with it.",
    )


class Listeners(_Section):
    """Addresses that the programs listen on."""

    http_listen: Listen = Field(
        default=HostPort("127.0.0.1", 8025), description="REST API, event stream and documents."
    )
    smtp_listen: Listen = Field(
        default=HostPort("127.0.0.1", 1025), description="Mail by SMTP, with STARTTLS and AUTH."
    )
    lmtp_listen: OptionalListen = Field(
        default=None,
        description="Mail by LMTP from a relay such as Postfix; unset: none.",
    )
    policy_listen: Listen = Field(
        default=HostPort("127.0.0.1", 10031),
        description="Postfix policy delegation.",
    )
    metrics_listen: OptionalListen = Field(
        default=None,
        description="Health and metrics of this one process of a fleet; unset: only where "
        "HTTP_LISTEN says, of whichever api answers there.",
    )
    notify_socket: Annotated[str | None, Form("set by systemd")] = Field(
        default=None,
        description="Where systemd is told that a process is ready or ends; leave it alone.",
    )
    drain_timeout_seconds: Seconds = Field(
        default=20,
        ge=1,
        le=25,
        description="Time after SIGTERM for transactions and requests that have begun.",
    )


class Mail(_Section):
    """The wire that mail comes in by."""

    domain: Annotated[
        str,
        Field(
            max_length=190,
            pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        ),
        Form("a domain name in lower case"),
    ] = Field(
        default="mail.example.com",
        description="Domain of the hosted addresses; organisations have subdomains of it.",
    )
    smtp_max_message_bytes: ByteSize = Field(
        default=ByteSize(30 * MIB),
        ge=64 * KIB,
        le=GIB,
        description="Largest mail of any organisation; larger ones get 552.",
    )
    smtp_max_recipients: Annotated[int, Unit("recipients")] = Field(
        default=1000,
        ge=100,  # RFC 5321, section 4.5.3.1.8
        le=10_000,
        description=(
            "Recipients of one transaction; the next ones get 452, and `POST /ingest` answers 422."
            " As in Postfix."
        ),
    )
    smtp_max_organizations: Annotated[int, Unit("organizations")] = Field(
        default=100,
        ge=100,  # RFC 5321, section 4.5.3.1.8: each of a hundred recipients may be another's
        le=10_000,
        description=(
            "Organizations that one mail goes to, each with a copy of its own; recipients of"
            " further ones get 452 4.5.3 and are taken in the next transaction."
        ),
    )
    smtp_max_connections: Annotated[int, Unit("connections")] = Field(
        default=2000,
        ge=1,
        le=100_000,
        description="SMTP connections at a time; further ones get 421.",
    )
    smtp_max_bytes_in_flight: ByteSize = Field(
        default=ByteSize(512 * MIB),
        ge=MIB,
        le=64 * GIB,
        description=(
            "Memory for mail that is arriving or being written, of all connections; beyond it DATA"
            " or its end gets 452. Not below SMTP_MAX_MESSAGE_BYTES."
        ),
    )
    smtp_command_timeout_seconds: Seconds = Field(
        default=300,  # RFC 5321, section 4.5.3.2.7
        ge=1,
        le=3600,
        description="How long a client may be silent between commands.",
    )
    smtp_data_timeout_seconds: Seconds = Field(
        default=600,
        ge=1,
        le=7200,
        description="How long one mail may take to arrive after DATA.",
    )
    smtp_tls_cert: OptionalFile = Field(
        default=None,
        description="Certificate chain for STARTTLS; without one the first start signs its own.",
    )
    smtp_tls_key: OptionalFile = Field(
        default=None, description="Private key of SMTP_TLS_CERT, without a pass phrase."
    )
    smtp_allow_anonymous: bool | None = Field(
        default=None,
        description=(
            "true: mail is taken without AUTH; false: only with AUTH. Unset: without, on loopback"
            " and wherever capture is off; a listener off loopback that captures must be told."
        ),
    )
    policy_when_blind: Literal["defer", "accept"] = Field(
        default="defer",
        description=(
            "What the policy daemon and `POST /policy/check` answer when they cannot decide: defer"
            " is 451; accept is no objection, and then LMTP decides when it can. Known refusals and"
            " the other doors are as ever."
        ),
    )
    policy_max_connections: Annotated[int, Unit("connections")] = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Policy connections at a time, one a busy smtpd; further ones are hung up on.",
    )
    lmtp_trusted: Networks = Field(
        default=(IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description=(
            "Networks that may hand mail over by LMTP, and whose word on other clients (XFORWARD)"
            " is taken."
        ),
    )


class Capture(_Section):
    """Capture mode: mail to any address becomes mail of organisation `local`."""

    capture_organization: Annotated[
        Literal["local", ""] | None, Form("local, or empty to turn capture off")
    ] = Field(
        default=None,
        description="Unset: `serve` captures unless APP_ENV is production, nothing else does.",
    )
    capture_max_messages: Annotated[int, Unit("messages")] = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000_000,
        description="Organisation `local` keeps its newest messages up to this number.",
    )
    capture_max_bytes: ByteSize = Field(
        default=ByteSize(10 * GIB),
        ge=MIB,
        le=2**50,
        description="Organisation `local` keeps its newest messages up to this many raw bytes.",
    )


class Sessions(_Section):
    """The HTTP side: who may sign in, and for how long."""

    app_env: Literal["development", "production"] = Field(
        default="development",
        description="production refuses to make up secrets or to start with weak ones.",
    )
    backend_url: Annotated[Url | None, Form("an http:// or https:// address")] = Field(
        default=None,
        description="How browsers reach the API; unset: the address it listens on.",
    )
    frontend_url: Annotated[Url | None, Form("an http:// or https:// address")] = Field(
        default=None,
        description="How browsers reach the console. Read, but this release has no console.",
    )
    jwt_secret: OptionalSecret = Field(
        default=None,
        description="Signs access tokens and links; made up at the first start, not in production.",
    )
    api_token_salt: OptionalSecret = Field(
        default=None,
        description="Hashes tokens before they are kept; made up as JWT_SECRET is.",
    )
    access_token_lifetime_minutes: Minutes = Field(
        default=15, ge=1, le=1440, description="How long an access token is good for."
    )
    refresh_token_lifetime_days: Days = Field(
        default=30, ge=1, le=365, description="How long a refresh token is good for."
    )
    session_absolute_limit_days: Days = Field(
        default=90, ge=1, le=3650, description="A session ends this long after its sign-in."
    )
    session_idle_limit_days: Days = Field(
        default=30, ge=1, le=3650, description="A session ends after this long without use."
    )
    registration: Annotated[Literal["open", "closed"] | None, Form("open or closed")] = Field(
        default=None,
        description=(
            "Whether anybody may register. Unset: open, but closed while capture listens for SMTP"
            " off loopback."
        ),
    )
    mailtape_admin_email: Annotated[
        str | None,
        Field(pattern=r"^[^\s@]{1,64}@[^\s@]{1,255}$"),
        Form("an e-mail address"),
    ] = Field(
        default=None,
        description="The administrator that every start makes sure of; made up at the first start.",
    )
    mailtape_admin_password: Annotated[SecretStr | None, Field(min_length=8, max_length=200)] = (
        Field(default=None, description="The administrator's password; made up as the name is.")
    )
    mailtape_api_token: Annotated[
        SecretStr | None,
        AfterValidator(_check_token),
        Form("32 to 200 characters of A-Z a-z 0-9 _ -"),
    ] = Field(
        default=None,
        description="An API token of organisation `local` with every scope; made up likewise.",
    )


class Limits(_Section):
    """How much one client may ask for."""

    http_max_connections: Annotated[int, Unit("connections")] = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="HTTP connections at a time, streams among them; further ones get 503.",
    )
    http_request_timeout_seconds: Seconds = Field(
        default=120,
        ge=1,
        le=3600,
        description="How long one request may take to arrive, body and all; then it gets 408.",
    )
    http_max_json_bytes: ByteSize = Field(
        default=ByteSize(256 * KIB),
        ge=16 * KIB,
        le=16 * MIB,
        description="Largest body of a request that hands over no mail; larger ones get 413.",
    )
    wait_max_seconds: Seconds = Field(
        default=60,
        ge=30,  # what a request without `timeout` waits
        le=3600,
        description="Longest `timeout` of a waiting request; proxies often cut after 60.",
    )
    watches_per_organization: Annotated[int, Unit("connections")] = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Event streams and waiting requests of one organisation; further ones get 429.",
    )
    search_max_chars: Characters = Field(
        default=400, ge=1, le=4000, description="Characters of `q`; longer ones get 422."
    )
    search_max_terms: Annotated[int, Unit("terms")] = Field(
        default=32,
        ge=1,
        le=256,
        description="Words and phrases of `q`, each a walk through the index; more get 422.",
    )

    auth_failures_per_account: Annotated[int, Unit("failures")] = Field(
        default=5, ge=1, le=1000, description="Failed sign-ins of one account within the window."
    )
    auth_failures_per_client: Annotated[int, Unit("failures")] = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Failed sign-ins of one client address within it.",
    )
    auth_failure_window_minutes: Minutes = Field(
        default=15, ge=1, le=1440, description="How long a failed sign-in counts."
    )


class Parsing(_Section):
    """How much of one mail is understood; what lies beyond stays in raw and leaves a defect."""

    mime_max_header_bytes: ByteSize = Field(
        default=ByteSize(512 * KIB),
        ge=64 * KIB,
        le=16 * MIB,
        description="Header block of a mail; real ones stay below 64KiB.",
    )
    mime_max_header_fields: Annotated[int, Unit("fields")] = Field(
        default=1000, ge=100, le=10_000, description="Fields of a header; real ones have some 200."
    )
    mime_max_document_bytes: ByteSize = Field(
        default=ByteSize(64 * MIB),
        ge=MIB,
        le=128 * MIB,
        description="Bytes of a mail that a parser is given; keep it over SMTP_MAX_MESSAGE_BYTES.",
    )
    mime_max_depth: Annotated[int, Unit("levels")] = Field(
        default=50, ge=5, le=100, description="Levels of multipart. Postfix and Dovecot: 100."
    )
    mime_max_parts: Annotated[int, Unit("parts")] = Field(
        default=1000, ge=10, le=10_000, description="Parts that are read. Dovecot: 10000."
    )
    mime_max_attachments: Annotated[int, Unit("attachments")] = Field(
        default=500, ge=1, le=10_000, description="Parts that are kept as attachments."
    )
    mime_max_decoded_bytes: ByteSize = Field(
        default=ByteSize(64 * MIB),
        ge=MIB,
        le=128 * MIB,
        description="Bytes of all decoded parts together.",
    )
    mime_max_text_chars: Characters = Field(
        default=2 * MIB,
        ge=KIB,
        le=8 * MIB,
        description="Text that is kept. Gmail shows 102 kB of a mail.",
    )
    mime_max_html_chars: Characters = Field(
        default=2 * MIB,
        ge=KIB,
        le=8 * MIB,
        description="HTML that is sanitised: a fifth of a second for 2 million at worst.",
    )
    mime_max_html_depth: Annotated[int, Unit("elements")] = Field(
        default=512, ge=32, le=512, description="Open elements of HTML; browsers stop at 512."
    )
    mime_max_search_chars: Characters = Field(
        default=64 * KIB,
        ge=KIB,
        le=MIB,
        description="Subject, people and text that can be searched for.",
    )


class Workers(_Section):
    """The processes that understand mail."""

    workers: Annotated[int | None, Unit("processes")] = Field(
        default=None,
        ge=1,
        le=256,
        description="Processes that parse mail; unset: one fewer than there are cores.",
    )
    worker_deadline_seconds: Seconds = Field(
        default=DEADLINE_SECONDS,
        ge=1,
        le=600,
        description=(
            "A worker that takes longer over a batch is ended, and the batch done again mail by"
            " mail; a mail that alone takes longer in each of its tries is kept unparsed."
        ),
    )
    worker_tries: Annotated[int, Unit("tries")] = Field(
        default=3,
        ge=1,
        le=100,
        description="Tries of a mail that fails alone; then it is kept unparsed, or parked.",
    )
    worker_retry_seconds: Seconds = Field(
        default=2,
        ge=1,
        le=3600,
        description="Time between two tries, and before a store that failed is asked again.",
    )


class Logging(_Section):
    """What is written to standard error."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important events that are written."
    )
    log_format: Annotated[Literal["json", "console"] | None, Form("json or console")] = Field(
        default=None, description="Unset: console on a terminal, JSON lines otherwise."
    )


SECTIONS: tuple[type[_Section], ...] = (
    Storage,
    Services,
    Listeners,
    Mail,
    Capture,
    Sessions,
    Limits,
    Parsing,
    Workers,
    Logging,
)


class Settings(
    Logging, Workers, Parsing, Limits, Sessions, Capture, Mail, Listeners, Services, Storage
):
    """All of them. Make one with `read_settings`, which explains what is wrong."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in given.items()
            if value != "" or name in _EMPTY_MEANS_SOMETHING
        }

    @property
    def in_production(self) -> bool:
        """Whether this is no place for made-up secrets."""
        return self.app_env == "production"

    @property
    def on_servers_alone(self) -> bool:
        """Whether nothing of what is kept lies in the data folder."""
        return None not in (self.db_host, self.mongodb_url, self.rabbitmq_url)

    @property
    def capture(self) -> bool:
        """Whether `serve` takes mail for addresses that nobody has."""
        if self.capture_organization is None:
            return not self.in_production
        return self.capture_organization == "local"

    @property
    def anonymous(self) -> bool:
        """Whether SMTP takes mail without AUTH."""
        return self.smtp_allow_anonymous is not False

    @property
    def registration_open(self) -> bool:
        """Whether anybody may make an account."""
        if self.registration is None:
            return not (self.capture and not self.smtp_listen.on_loopback)
        return self.registration == "open"

    @property
    def worker_processes(self) -> int:
        """How many processes parse mail."""
        return self.workers or max(1, (os.cpu_count() or 1) - 1)


def read_settings(env_file: Path = Path(".env"), **flags: Any) -> Settings:
    """Read the environment and `env_file`; a flag that is not None goes before both.

    Raises:
        WrongSettings: with everything that is wrong at once.
    """
    try:
        dotenv = DotEnvSettingsSource(Settings, env_file=env_file, case_sensitive=True).env_vars
    except UnicodeDecodeError:
        raise WrongSettings((f"{env_file} is not text in UTF-8.",)) from None
    given = {name for name, value in {**dotenv, **os.environ}.items() if value}
    faults = name_faults(given, known={name.upper() for name in Settings.model_fields})
    try:
        settings = Settings(
            _env_file=env_file, **{name: flag for name, flag in flags.items() if flag is not None}
        )
    except ValidationError as error:
        raise WrongSettings((*faults, *_value_faults(error))) from None
    faults += _combination_faults(settings)
    if faults:
        raise WrongSettings(tuple(faults))
    return settings


_SHARED = ("db_host", "mongodb_url", "rabbitmq_url", "jwt_secret", "api_token_salt")
"""What all processes of a fleet must share; made up or kept in a folder it is each one's own."""


def for_a_fleet(settings: Settings) -> Settings:
    """Fit settings to a process of a fleet, which captures only when it is told to.

    Raises:
        WrongSettings: something that all processes share is not set.
    """
    missing = [name.upper() for name in _SHARED if getattr(settings, name) is None]
    if missing:
        raise WrongSettings(
            tuple(f"{name} is not set; the processes of a fleet share it." for name in missing)
        )
    if settings.capture_organization is None:
        return settings.model_copy(update={"capture_organization": ""})
    return settings


def allowed(field: FieldInfo) -> str:
    """Say what a setting may be, for the reference and for whoever got it wrong."""
    facts: dict[type[object], Any] = {type(fact): fact for fact in field.metadata}
    if form := facts.get(Form):
        return str(form.words)
    if field.annotation is ByteSize:
        return f"a size from {size(facts[Ge].ge)} to {size(facts[Le].le)}, such as 30MiB"
    if unit := facts.get(Unit):
        return f"a whole number of {unit.name} from {facts[Ge].ge} to {facts[Le].le}"
    if MinLen in facts:
        return f"{facts[MinLen].min_length} to {facts[MaxLen].max_length} characters"
    if get_origin(field.annotation) is Literal:
        return " or ".join(str(choice) for choice in get_args(field.annotation))
    return "true or false"


def size(octets: int) -> str:
    """Write a number of bytes as it may be set."""
    return ByteSize(octets).human_readable().replace(".0", "")


def is_secret(field: FieldInfo) -> bool:
    """Whether the value is never shown."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def wrong_secret(name: str) -> str:
    """Say that a setting cannot be used, and nothing of its value."""
    return f"{name.upper()} has a wrong value; it must be {allowed(Settings.model_fields[name])}."


def _value_faults(error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        field = Settings.model_fields[name]
        if is_secret(field):
            yield wrong_secret(name)
        else:
            yield f"{name.upper()} is {str(fault['input'])!r}; it must be {allowed(field)}."


def _combination_faults(settings: Settings) -> list[str]:
    """Find values that are right by themselves and wrong together."""
    faults = []
    listen = settings.smtp_listen
    if settings.capture and not listen.on_loopback and settings.smtp_allow_anonymous is None:
        faults.append(
            f"SMTP_LISTEN is {listen}, which other machines reach, and capture is on; set"
            " SMTP_ALLOW_ANONYMOUS to true to take mail from anybody, to false to ask for AUTH, or"
            " turn capture off with an empty CAPTURE_ORGANIZATION."
        )
    if settings.smtp_max_bytes_in_flight < settings.smtp_max_message_bytes:
        faults.append(
            f"SMTP_MAX_BYTES_IN_FLIGHT is {size(settings.smtp_max_bytes_in_flight)}; it must not be"
            " below SMTP_MAX_MESSAGE_BYTES, or the largest mails are refused for ever."
        )
    if settings.smtp_listen == settings.http_listen and listen.port != 0:
        faults.append(f"SMTP_LISTEN and HTTP_LISTEN are both {listen}; they must differ.")
    if (settings.smtp_tls_cert is None) != (settings.smtp_tls_key is None):
        faults.append("SMTP_TLS_CERT and SMTP_TLS_KEY must be set together.")
    faults += [
        f"{name} is {str(path)!r}; it must be a file that can be read."
        for name, path in (
            ("SMTP_TLS_CERT", settings.smtp_tls_cert),
            ("SMTP_TLS_KEY", settings.smtp_tls_key),
        )
        if path is not None and not os.access(path, os.R_OK)
    ]
    if settings.in_production:
        faults += _production_faults(settings)
    return faults


def _production_faults(settings: Settings) -> Iterable[str]:
    secrets = {"JWT_SECRET": settings.jwt_secret, "API_TOKEN_SALT": settings.api_token_salt}
    for name, secret in secrets.items():
        if secret is None:
            yield f"{name} is not set; APP_ENV=production makes up no secrets."
        elif len(secret) < PRODUCTION_SECRET_LENGTH:
            yield (
                f"{name} is shorter than the {PRODUCTION_SECRET_LENGTH} characters that"
                " APP_ENV=production asks for."
            )
        elif is_weak(secret.get_secret_value()):
            yield f"{name} looks like a sample; APP_ENV=production needs a random one."
    if settings.jwt_secret is not None and settings.jwt_secret == settings.api_token_salt:
        yield "JWT_SECRET and API_TOKEN_SALT are the same; they must differ."
    password, token = settings.mailtape_admin_password, settings.mailtape_api_token
    if settings.mailtape_admin_email is not None and password is None:
        yield "MAILTAPE_ADMIN_PASSWORD is not set; APP_ENV=production makes up no password."
    if password is not None and is_weak(password.get_secret_value()):
        yield "MAILTAPE_ADMIN_PASSWORD looks like a sample; APP_ENV=production needs a real one."
    if token is not None and is_weak(token.get_secret_value()):
        yield "MAILTAPE_API_TOKEN looks like a sample; APP_ENV=production needs a real one."


_SAMPLE = re.compile(
    r"change.?(me|this|it)|(your|my|super|very|top).{0,8}secret|secret.?key|s3cr3t|example"
    r"|placeholder|default|insecure|passw[o0]rd",
    re.IGNORECASE,
)


def is_weak(secret: str) -> bool:
    """Whether a secret looks copied from a document."""
    return _SAMPLE.search(secret) is not None
