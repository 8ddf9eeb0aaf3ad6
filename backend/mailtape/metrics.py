"""What a process counts about itself, in Prometheus' words; `/metrics` shows it.

All metrics are declared here, so that this page is the list of them. Labels come from closed sets
(a route's template, a status, a reply code), never from what a stranger sends: every label value
is memory for ever.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

MESSAGES_ACCEPTED = Counter(
    "mailtape_messages_accepted",
    "Recipients that were told their mail is durable, by the door it came through.",
    ["protocol"],
    registry=REGISTRY,
)
MESSAGES_STORED = Counter(
    "mailtape_messages_stored",
    "Messages that became visible.",
    registry=REGISTRY,
)
MAILS_PARKED = Counter(
    "mailtape_mails_parked",
    "Mails that could not be stored and were set aside for a person.",
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge(
    "mailtape_queue_depth",
    "Mails in the queue: waiting, leased to a worker, or parked.",
    ["state"],
    registry=REGISTRY,
)
PART_WORKS = Gauge(
    "mailtape_part_works",
    "Whether a part that this process stands on works: 1, or 0; used once for each look, and of"
    " counters whether Redis is asked.",
    ["part"],
    registry=REGISTRY,
)
VISIBLE_SECONDS = Histogram(
    "mailtape_visible_seconds",
    "Time from acceptance until a message was visible.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
HTTP_REQUESTS = Counter(
    "mailtape_http_requests",
    "Answers of the API, by method, route template and status.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
HTTP_STREAMS = Gauge(
    "mailtape_http_streams",
    "Event streams and waiting requests that are open.",
    registry=REGISTRY,
)
SMTP_REFUSALS = Counter(
    "mailtape_smtp_refusals",
    "Recipients, mails and sign-ins that SMTP refused, by what was refused and reply code.",
    ["what", "code"],
    registry=REGISTRY,
)
POLICY_ANSWERS = Counter(
    "mailtape_policy_answers",
    "Answers of the policy daemon, by the reason of the refusal; none for no objection.",
    ["reason"],
    registry=REGISTRY,
)
POLICY_ACCEPTED_BLIND = Counter(
    "mailtape_policy_accepted_blind",
    "Questions that could not be decided and met no objection, as POLICY_WHEN_BLIND=accept says.",
    registry=REGISTRY,
)
