"""Each query of the dashboard and of the alerts, against what real services export."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
import pytest_asyncio
import yaml
from prometheus_client.samples import Sample

from godwit.metrics import definitions
from godwit.pictures.migrations import REFUSALS
from godwit_protocol.events.migration import AbortReason
from observed_cluster import Observed
from real_prometheus import Prometheus, find, running

FOLDER = Path(__file__).parents[2] / "deploy/observability"
BOARD = json.loads((FOLDER / "grafana/dashboards/godwit.json").read_text())
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
JOB = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"][0]
RULES = [rule for group in GROUPS for rule in group["rules"]]
GRAFANA_S = {"$__rate_interval": "1m", "$__range": "1h"}
PROCESSES = {
    "coordinator": "coordinator",
    "gpu_state_tracker": "gpu_state_tracker",
    "monitor": "monitor",
    "host-1-source_host": "source_host",
    "host-2-destination_host": "destination_host",
}


def board_queries() -> Iterator[tuple[str, str, str]]:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            legend = target.get("legendFormat", "")
            yield f"{panel['title']} {target['refId']}", target["expr"], legend


def rule_queries() -> Iterator[tuple[str, str, str]]:
    for rule in RULES:
        told = " ".join(rule["annotations"].values())
        yield rule["alert"], rule["expr"], re.sub(r"\$labels\.", "", told)


QUERIES = [*board_queries(), *rule_queries()]
WHERE = [where for where, _, _ in QUERIES]


def filled_in(expr: str) -> str:
    """As Grafana sends it."""
    for variable, value in GRAFANA_S.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def parsed(expr: str) -> promql.Expr:
    """Raises ``ValueError`` for what is no PromQL."""
    return promql.parse(filled_in(expr))


def parts(expr: promql.Expr) -> list[Any]:
    found: list[Any] = []
    promql.walk(expr, found.append)
    return found


def selectors(expr: promql.Expr) -> list[promql.VectorSelector]:
    return [part for part in parts(expr) if isinstance(part, promql.VectorSelector)]


def groupings(expr: promql.Expr) -> list[set[str]]:
    """The labels that each aggregation keeps."""
    aggregates = [part for part in parts(expr) if isinstance(part, promql.AggregateExpr)]
    return [set(part.modifier.labels) if part.modifier else set() for part in aggregates]


def fits(sample: Sample, selector: promql.VectorSelector) -> bool:
    if sample.name != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        value = sample.labels.get(matcher.name, "")
        if matcher.op == promql.MatchOp.Equal and value != matcher.value:
            return False
        if matcher.op == promql.MatchOp.NotEqual and value == matcher.value:
            return False
        if matcher.op == promql.MatchOp.NotRe and re.fullmatch(matcher.value, value):
            return False
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def samples(observed: Observed) -> list[Sample]:
    """What Prometheus has after a scrape: the samples with their targets' labels."""
    found = [Sample("up", {"job": JOB["job_name"], "service": "", "host": ""}, 1.0)]
    for process, service in PROCESSES.items():
        target = {"job": JOB["job_name"], "service": service}
        if process.startswith("host"):
            target["host"] = process.partition("_")[0].rpartition("-")[0]
        for sample in await observed.scrape(process):
            assert not set(target) & set(sample.labels), "Prometheus would rename it"
            found.append(Sample(sample.name, {**sample.labels, **target}, sample.value))
    return found


@pytest.mark.e2e
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("where", "expr", "told"), QUERIES, ids=WHERE)
async def test_a_query_finds_what_services_export(
    samples: list[Sample], where: str, expr: str, told: str
) -> None:
    tree = parsed(expr)
    labels: set[str] = set()
    assert selectors(tree), where
    for selector in selectors(tree):
        found = [sample for sample in samples if fits(sample, selector)]
        assert found, f"{where}: nothing exports {selector.prettify()}"
        labels |= {label for sample in found for label in sample.labels}
    kept = set[str]().union(*groupings(tree))
    assert kept <= labels, f"{where}: no series has {kept - labels}"
    shown = kept if groupings(tree) else labels
    assert set(re.findall(r"{{ ?(\w+) ?}}", told)) <= shown, f"{where}: a label that is not there"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prometheus(
    observed: Observed, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prometheus]:
    """A real one that has scraped every service often enough to tell rates."""
    targets = {
        (role, process.partition("_")[0].rpartition("-")[0] if "-" in process else ""): process
        for process, role in PROCESSES.items()
    }
    addresses = {key: observed.address(process) for key, process in targets.items()}
    async with running(tmp_path_factory.mktemp("prometheus"), addresses) as server:

        async def has_rates() -> bool:
            found = await server.ask("query", query="count_over_time(up[1m]) > 3 and up == 1")
            return len(found["result"]) == len(addresses)

        await server.until(has_rates)
        yield server


@pytest.mark.e2e
@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_prometheus_answers_every_query_of_the_dashboard(
    prometheus: Prometheus,
) -> None:
    asked = {where: filled_in(expr) for where, expr, _ in board_queries()}
    found = {
        # What is only shown where it is more than nothing must be there, too.
        where: await prometheus.ask("query", query=expr.replace("> 0", ">= 0"))
        for where, expr in asked.items()
    }
    assert [where for where, answer in found.items() if not answer["result"]] == []


@pytest.mark.e2e
@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    async def evaluated() -> bool:
        groups = (await prometheus.ask("rules"))["groups"]
        return all(rule["lastEvaluation"] > "2" for group in groups for rule in group["rules"])

    await prometheus.until(evaluated)
    rules = [rule for group in (await prometheus.ask("rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == set()


def test_what_is_no_query_or_no_metric_would_be_found() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        parsed("sum by (le (rate(godwit_migration_stun_seconds_bucket[5m])))")
    (selector,) = selectors(parsed('rate(godwit_migrations_total{outcome="ended"}[5m])'))
    sample = Sample("godwit_migrations_total", {"outcome": "completed"}, 1.0)
    assert not fits(sample, selector)


def test_every_metric_is_on_the_dashboard() -> None:
    """What nobody looks at need not be exported."""
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", selector.name)
        for _, expr, _ in board_queries()
        for selector in selectors(parsed(expr))
    }
    assert {metric.name for metric in definitions.ALL} - shown == set()


def test_the_dashboard_s_panels_are_apart_and_have_a_source() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/godwit.yml").read_text())
    uids = {source["uid"] for source in sources["datasources"]}
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] in uids


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    checks = (
        ("check", "config", FOLDER / "prometheus.yml"),
        ("check", "rules", FOLDER / "alerts.yml"),
    )
    for words in checks:
        done = subprocess.run(
            [find("promtool"), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


class Case(NamedTuple):
    """What an alert makes of a story. ``story``: values by series, one a minute, as promtool has
    them: ``_`` is none, ``0x9`` nine more of it. ``fires_m``: in which minutes it fires.
    """

    alert: str
    story: dict[str, str]
    fires_m: set[int]


FAILED = 'godwit_machines_failed_total{service="source_host",host="host-1"}'
ALARM = 'godwit_alarms_total{alarm="doubt_raised",service="coordinator",host=""}'

OLDEST_WAIT = 'godwit_migration_oldest_wait_seconds{service="coordinator"}'


def ended(outcome: str, reason: str = "") -> str:
    return f'godwit_migrations_total{{outcome="{outcome}",reason="{reason}"}}'


CASES = {
    "a machine dies": Case("GodwitMachineFailed", {FAILED: "0x20 1x40"}, {25}),
    "none dies": Case("GodwitMachineFailed", {FAILED: "0x60"}, set()),
    "two die with their host": Case("GodwitMachineFailed", {FAILED: "0x10 _x20 2x40"}, {35}),
    "one that failed before Prometheus was there": Case(
        "GodwitMachineFailed", {FAILED: "1x60"}, {5}
    ),
    "an alarm at a start": Case("GodwitAlarmRaised", {ALARM: "_x20 1x40"}, {25}),
    "no alarm": Case("GodwitAlarmRaised", {ALARM: "_x20 0x40"}, set()),
    "one refusal in a quiet hour": Case(
        "GodwitMigrationsAborting",
        {ended("aborted", "incompatible"): "0x5 1x60", ended("completed"): "0x60"},
        set(),
    ),
    "one failure in a quiet hour": Case(
        "GodwitMigrationsAborting",
        {ended("aborted", "source_lost"): "0x5 1x60", ended("completed"): "0x60"},
        set(),
    ),
    "refusals in a busy hour": Case(
        "GodwitMigrationsAborting",
        {ended("aborted", "incompatible"): "0+1x60", ended("completed"): "0+1x60"},
        set(),
    ),
    "failures, whatever is refused": Case(
        "GodwitMigrationsAborting",
        {
            ended("aborted", "source_lost"): "0+1x60",
            ended("aborted", "incompatible"): "0+9x60",
            ended("completed"): "0+1x60",
        },
        {25, 35, 55},
    ),
    "a queue that stands still": Case(
        "GodwitMigrationsWaiting", {OLDEST_WAIT: "0x10 60+60x50"}, {35, 55}
    ),
    "short waits, one after the other": Case(
        "GodwitMigrationsWaiting", {OLDEST_WAIT: "0x10 20x50"}, set()
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_alert_fires_when_it_should(tmp_path: Path, case: Case) -> None:
    told = [{"series": series, "values": values} for series, values in case.story.items()]
    one = tmp_path / "alerts.yml"  # without the others, and what they need to be looked at
    rule = next(rule for rule in RULES if rule["alert"] == case.alert)
    asked = [
        {
            "expr": f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"value": 1}] if minute in case.fires_m else [],
        }
        for minute in (5, 25, 35, 55)
    ]
    one.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    story = {"interval": "1m", "input_series": told, "promql_expr_test": asked}
    test = tmp_path / "test.yml"
    test.write_text(yaml.safe_dump({"rule_files": [str(one)], "tests": [story]}))
    done = subprocess.run(
        [find("promtool"), "test", "rules", test], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_refusal_counts_as_a_migration_that_failed() -> None:
    (rule,) = (rule for rule in RULES if rule["alert"] == "GodwitMigrationsAborting")
    left_out = set(re.findall(r'reason!~"([^"]+)"', rule["expr"]))
    assert left_out == {"|".join(sorted({*REFUSALS, AbortReason.CANCELLED}))}


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
    assert "GodwitMigrationInDoubt" in names


def test_every_alert_is_explained() -> None:
    page = (FOLDER.parents[1] / "docs/monitoring.md").read_text()
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_grafana_finds_the_dashboard_where_compose_mounts_it() -> None:
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    boards = mounts["./deploy/observability/grafana/dashboards"]
    providers = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/godwit.yml").read_text())[
        "providers"
    ]
    assert [provider["options"]["path"] for provider in providers] == [boards]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{boards}/godwit.json"
    assert mounts["./deploy/observability/grafana/provisioning"] == "/etc/grafana/provisioning"
