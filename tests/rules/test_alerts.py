"""Alerts ask only for what processes export, with labels and values that it has."""

import re
from dataclasses import fields
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.metrics_core import Metric

from mailtape import opening
from mailtape.api.errors import of_error
from mailtape.domain.errors import Unavailable
from mailtape.domain.quota import Reason
from mailtape.metrics import REGISTRY
from mailtape.ports.queue import QueueDepth
from mailtape_ingest import replies
from mailtape_ingest.replies import Reply

RULES = (Path(__file__).parents[2] / "deploy/prometheus/mailtape.rules.yml").read_text()
ALERTS = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
EXPRESSIONS = [alert["expr"] for alert in ALERTS]
METRIC = re.compile(r"\b(mailtape_\w+)(?:\{([^}]*)\})?")
ASKED = sorted({found for each in EXPRESSIONS for found in METRIC.findall(each)})
PRODUCED = {
    ("mailtape_http_requests_total", "status"): {str(of_error(Unavailable("")).status_code)},
    ("mailtape_part_works", "part"): {opening.COUNTERS},
    ("mailtape_policy_answers_total", "reason"): {*Reason, "none"},
    ("mailtape_queue_depth", "state"): {each.name for each in fields(QueueDepth)},
    ("mailtape_smtp_refusals_total", "code"): {
        str(reply.code) for reply in vars(replies).values() if isinstance(reply, Reply)
    },
}
"""The values that the code gives to a label, from where it takes them."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def exported() -> dict[str, Metric]:
    return {
        metric.name + suffix: metric
        for metric in REGISTRY.collect()
        for suffix in SUFFIXES[metric.type]
    }


def labels_of(metric: Metric) -> set[str]:
    (declared,) = [
        each for each in REGISTRY._collector_to_names if getattr(each, "_name", "") == metric.name
    ]
    return set(declared._labelnames)


def test_every_alert_has_what_it_needs() -> None:
    names = {alert["alert"] for alert in ALERTS}

    assert len(names) == len(ALERTS) > 5
    for alert in ALERTS:
        assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", alert["for"])
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description"}
        assert all(alert["annotations"].values())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_alert_is_a_query_whose_types_fit(expression: str) -> None:
    assert promql_parser.parse(expression).prettify()


@pytest.mark.parametrize(("name", "selector"), ASKED)
def test_what_an_alert_asks_for_is_exported(name: str, selector: str) -> None:
    assert name in exported()
    asked = set(re.findall(r"(\w+)=~?\"", selector))
    assert asked <= labels_of(exported()[name])


def test_each_value_that_an_alert_names_can_be_produced() -> None:
    named = [
        (name, label, value)
        for name, selector in ASKED
        for label, value in re.findall(r"(\w+)=~?\"([^\"]*)\"", selector)
    ]

    assert len(named) > 3
    for name, label, value in named:
        assert any(re.fullmatch(value, each) for each in PRODUCED[name, label]), (name, value)
