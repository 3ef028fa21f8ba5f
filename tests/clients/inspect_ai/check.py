"""Inspect: a small task through its provider for OpenAI-compatible servers."""

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

samples = [
    Sample(input=f"Box with {n} pens\nJon sells 16\nZoe buys 6\nHow many now?", target=str(n - 10))
    for n in range(40, 46)
]
for model in ("tinymath@greedy", "tinymath@best_of_n"):
    # it finds HEADRACE_BASE_URL and HEADRACE_API_KEY by the provider's name
    [log] = eval(
        Task(dataset=samples, solver=generate(), scorer=includes()),
        model=f"openai-api/headrace/{model}",
        max_tokens=60,
        temperature=0.5,
        seed=1,
        display="none",
        log_dir="logs",
    )
    assert log.status == "success", log.error
    assert all(sample.output.completion and sample.error is None for sample in log.samples)
    assert sum(usage.output_tokens for usage in log.stats.model_usage.values()) > 0
