"""vLLM's own OpenAI server over the engine that a policy replica has, as a process: what `bench serve` compares with.

python -m experiments.bench.vllm_server MODEL PORT
"""

import sys
from dataclasses import fields, replace

from experiments.bench.tiny import TINY
from orchestrator.policy.engines.vllm import engine_args, prepare_process

NAME = "tiny"  # the model's name in requests


def serve(model: str, port: int) -> None:
    """Until SIGTERM. Its engine has the arguments of ours, the executor in its process among them."""
    prepare_process(model, num_threads=1)
    ours = engine_args(replace(TINY.policy, model=model))

    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME, "--disable-uvicorn-access-log"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    for field in fields(ours):
        if field.init and field.name != "served_model_name":
            setattr(args, field.name, getattr(ours, field.name))
    uvloop.run(run_server(args))  # as its own command does


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
