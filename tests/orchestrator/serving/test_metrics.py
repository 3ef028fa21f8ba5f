"""What Prometheus reads, what the page says of it, and what the dashboard asks for."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.core.ledger import Ledger
from orchestrator.serving.config import Limits
from orchestrator.serving.metrics import Metrics, ReplicaStats
from tests.fakes import ScriptedPolicy, TableVerifier
from tests.orchestrator.serving.endpoint import Connection, chat, client_of, endpoint, num_searches
from tests.waiting import until

ROOT = Path(__file__).parents[3]
PATH = "/v1/chat/completions"


def policy() -> ScriptedPolicy:
    return ScriptedPolicy({"Q:": ["a\n\nAnswer: 1", "bb\n\nAnswer: 2"]}, context_length=2000)


async def scraped(http: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Samples by their names and labels, without the label of the process."""
    response = await http.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("endpoint")
            found[sample.name, ",".join(f"{key}={labels[key]}" for key in sorted(labels))] = sample.value
    return found


async def test_requests_are_counted_by_strategy_and_status_and_timed() -> None:
    async with client_of(endpoint(policy())) as http:
        await http.post(PATH, json=chat())
        await http.post(PATH, json=chat(stream=True))
        await http.post(PATH, json=chat(model="tiny@nothing"))
        await http.post(PATH, json=chat(max_tokens=10_000_000))
        await http.get("/v1/models")
        found = await scraped(http)
    assert found["headrace_requests_total", "status=200,strategy=greedy"] == 2
    assert found["headrace_requests_total", "status=404,strategy=none"] == 1
    assert found["headrace_requests_total", "status=400,strategy=none"] == 1
    assert found["headrace_request_seconds_count", "strategy=greedy"] == 2
    assert found["headrace_first_event_seconds_count", "strategy=greedy"] == 1
    assert sum(value for (name, _), value in found.items() if name == "headrace_requests_total") == 4


async def test_tokens_add_up_to_the_ledgers_of_the_answers() -> None:
    async with client_of(endpoint(policy(), TableVerifier(lambda text: 0.5))) as http:
        ledgers = [(await http.post(PATH, json=chat())).json()["headrace"]["ledger"] for _ in range(2)]
        found = await scraped(http)

    def total(name: str) -> float:
        return sum(value for (metric, labels), value in found.items() if metric == name and "best_of_n" in labels)

    for metric, column in (("policy", "generated"), ("prompt", "prompt"), ("verifier", "verifier")):
        assert total(f"headrace_{metric}_tokens_total") == sum(ledger[f"{column}_tokens"] for ledger in ledgers) > 0


async def test_a_search_whose_client_left_is_counted_and_so_is_who_waits() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(max_concurrent=1))
    async with client_of(app) as http:
        held, waiting = Connection(app, chat()), Connection(app, chat())
        await until(lambda: num_searches(app) == 1 and app.state.service.num_queued == 1)
        busy = await scraped(http)
        for connection in (waiting, held):
            connection.leave()
        await asyncio.wait([held.task, waiting.task])
        await until(lambda: num_searches(app) == 0)
        found = await scraped(http)
    assert (busy["headrace_searches_in_flight", ""], busy["headrace_requests_queued", ""]) == (1, 1)
    assert (found["headrace_searches_in_flight", ""], found["headrace_requests_queued", ""]) == (0, 0)
    assert found["headrace_requests_total", "status=499,strategy=greedy"] == 2


async def test_the_pools_report_when_they_are_asked() -> None:
    async with client_of(endpoint(policy(), TableVerifier(lambda text: 0.5))) as http:
        found = await scraped(http)
    assert found["headrace_replicas", "pool=policy"] == 2 and found["headrace_replicas", "pool=verifier"] == 1
    assert found["headrace_replica_restarts", "pool=policy"] == 2
    assert (found["headrace_policy_running", ""], found["headrace_policy_waiting", ""]) == (4, 6)
    assert (found["headrace_verifier_states", ""], found["headrace_verifier_slots", ""]) == (5, 6)


def test_discarded_and_repeated_tokens_are_told_apart() -> None:
    metrics = Metrics("here")
    cost = Ledger(
        generated_tokens=10,
        discarded_tokens=3,
        prompt_tokens=7,
        cached_tokens=2,
        verifier_tokens=5,
        reingested_tokens=1,
    )
    metrics.searched("mcts", cost)
    text = metrics.exposed(in_flight=0, queued=0, replicas=ReplicaStats()).decode()
    for name, kind, value in (
        ("policy", "kept", 7),
        ("policy", "discarded", 3),
        ("prompt", "computed", 5),
        ("prompt", "cached", 2),
        ("verifier", "new", 4),
        ("verifier", "again", 1),
    ):
        line = f'headrace_{name}_tokens_total{{endpoint="here",kind="{kind}",strategy="mcts"}} {value:.1f}'
        assert line in text or line.replace('endpoint="here",', "").replace("}", ',endpoint="here"}') in text, line


def test_every_metric_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    section = page[page.index("## Metrics") : page.index("## Traces")]
    assert set(re.findall(r"`(headrace_\w+)`", section)) == set(Metrics().names)


def test_every_query_of_the_dashboard_names_metrics_that_exist() -> None:
    board: dict[str, Any] = json.loads((ROOT / "configs" / "grafana.json").read_text(encoding="utf-8"))
    asked = set()
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = re.findall(r"headrace_\w+", target["expr"])
            assert names, target["expr"]
            asked |= {name.removesuffix("_bucket") for name in names}
    assert asked == set(Metrics().names)
