"""lm-evaluation-harness: a task that it generates for, and one that it asks for log-likelihoods."""

import json
import os
import subprocess
import sys
from pathlib import Path

URL = os.environ["HEADRACE_BASE_URL"]
os.environ["OPENAI_API_KEY"] = os.environ["HEADRACE_API_KEY"]
HERE = Path.cwd() / "tasks"
HERE.mkdir(exist_ok=True)

questions = [
    {"question": f"Box with {n} pens\nJon sells 16\nZoe buys 6\nHow many now?", "answer": str(n - 10), "wrong": str(n)}
    for n in range(40, 46)
]
(HERE / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
DATA = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {HERE}/questions.jsonl}}}}\ntest_split: test\n"
(HERE / "tiny_generated.yaml").write_text(
    f"task: tiny_generated\n{DATA}output_type: generate_until\ndoc_to_text: '{{{{question}}}}'\n"
    "doc_to_target: '{{answer}}'\ngeneration_kwargs: {until: [\"\\n\\n\\n\"], do_sample: false, max_gen_toks: 60}\n"
    "metric_list: [{metric: exact_match}]\n"
)
(HERE / "tiny_choice.yaml").write_text(
    f"task: tiny_choice\n{DATA}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\n"
    "doc_to_choice: '{{[answer, wrong]}}'\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n"
)


def evaluate(model: str, path: str, tasks: str, *more: str) -> dict:
    out = HERE / f"results-{model}"
    arguments = f"model=tinymath@greedy,base_url={URL}/{path},num_concurrent=4,max_retries=1,tokenized_requests=False"
    if model == "local-completions":
        arguments += f",tokenizer={os.environ['HEADRACE_TOKENIZER']}"
    command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--tasks", tasks]
    subprocess.run([*command, "--include_path", str(HERE), "--output_path", str(out), *more], check=True)
    return json.loads(max(out.rglob("results_*.json"), key=lambda file: file.stat().st_mtime).read_text())["results"]


found = evaluate("local-completions", "completions", "tiny_generated,tiny_choice")
assert "exact_match,none" in found["tiny_generated"] and 0 <= found["tiny_choice"]["acc,none"] <= 1, found
found = evaluate("local-chat-completions", "chat/completions", "tiny_generated", "--apply_chat_template")
assert "exact_match,none" in found["tiny_generated"], found
