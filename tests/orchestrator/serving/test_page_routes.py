"""The page's files, what forbids it to reach elsewhere, and what the server offers it."""

import re

from orchestrator.serving.keys import new_key
from tests.orchestrator.serving.endpoint import client_of, endpoint
from tests.orchestrator.serving.test_app import policy, verifier


async def test_the_page_and_each_file_that_it_names_are_served_under_a_policy_that_forbids_other_origins() -> None:
    async with client_of(endpoint(policy())) as http:
        page = await http.get("/")
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        files = [await http.get(f"/{name}") for name in named]
        imported = [await http.get(f"/page/{name}") for name in re.findall(r'from "\./(.+?)"', files[-1].text)]
        missing = [await http.get(f"/page/{name}") for name in ("nothing.js", "__init__.py", "..%2fapp.py")]
    assert named == ["page/style.css", "page/main.js"] and len(imported) > 5
    for answer in (page, *files, *imported):
        assert answer.status_code == 200
        policy_of = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy_of and "connect-src 'self'" in policy_of
        assert not re.search(r"https?:|\*|unsafe", policy_of)
    assert [answer.status_code for answer in missing] == [404, 404, 404]


async def test_the_page_needs_no_key_and_what_it_asks_for_does() -> None:
    app = endpoint(policy(), variable=new_key("ann")[1].line)
    async with client_of(app) as http:
        paths = ("/", "/page/main.js", "/v1/headrace/strategies", "/v1/headrace/traces/one")
        assert [(await http.get(path)).status_code for path in paths] == [200, 200, 401, 401]


async def test_offers_name_every_strategy_that_is_served_with_its_parameters_as_they_stand() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        offers = (await http.get("/v1/headrace/strategies")).json()
        models = (await http.get("/v1/models")).json()["data"]
    strategies = {strategy["name"]: strategy for strategy in offers["strategies"]}
    assert [f"tiny@{name}" for name in strategies] == [model["id"] for model in models[1:]]
    assert (offers["default_strategy"], offers["limits"]["max_n"], offers["keeps_traces"]) == ("best_of_n", 64, True)
    params = {param["name"]: param for param in strategies["best_of_n"]["params"]}
    assert params["n"] == {"name": "n", "type": "integer", "default": 2, "nullable": False, "costly": True}
    assert params["selection.kind"]["choices"] == ["mean", "lower_bound"]
    assert all(strategy["about"] for strategy in strategies.values())


async def test_without_a_verifier_no_strategy_is_offered_that_needs_one() -> None:
    async with client_of(endpoint(policy())) as http:
        offers = (await http.get("/v1/headrace/strategies")).json()
    assert "best_of_n" not in [strategy["name"] for strategy in offers["strategies"]]
