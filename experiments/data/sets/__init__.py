"""The data sets by name. To add one: a module with a `DataConfig` (`experiments.data.published` has the usual one), and
a line in `DATASETS`."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from experiments.data.datasets import DataConfig
from experiments.data.sets.aime import Aime
from experiments.data.sets.amc import Amc
from experiments.data.sets.fields import Fields
from experiments.data.sets.gpqa_diamond import GpqaDiamond
from experiments.data.sets.gsm8k import Gsm8k
from experiments.data.sets.humaneval import HumanEval
from experiments.data.sets.livecodebench import LiveCodeBench
from experiments.data.sets.math500 import Math500
from experiments.data.sets.mbpp import Mbpp
from experiments.data.sets.mmlu_pro import MmluPro
from experiments.data.sets.tinymath import TinyMath
from experiments.data.sets.word_problems import WordProblems
from orchestrator.core.errors import UserError
from orchestrator.typed import typed

DATASETS: dict[str, type[DataConfig]] = {
    "tinymath": TinyMath,
    "word_problems": WordProblems,
    "gsm8k": Gsm8k,
    "math500": Math500,
    "aime": Aime,
    "amc": Amc,
    "gpqa_diamond": GpqaDiamond,
    "mmlu_pro": MmluPro,
    "humaneval": HumanEval,
    "mbpp": Mbpp,
    "livecodebench": LiveCodeBench,
    # any file, by the names of its fields
    "jsonl": Fields,
    "json": Fields,
    "csv": Fields,
    "parquet": Fields,
}


def data_config(given: Mapping[str, Any], owner: str = "data") -> DataConfig:
    """The data set of the given name with the given settings. `owner` is their dotted key. Raises UserError."""
    name = given.get("name")
    if name is None:
        raise UserError(f"{owner}.name is missing, wanted one of {', '.join(DATASETS)}")
    if not isinstance(name, str) or name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{owner}.name: got {name!r}, wanted one of {', '.join(DATASETS)}{hint}")
    settings = settings_of(name)
    if unknown := [key for key in given if key not in settings]:
        own = [other for other in DATASETS if unknown[0] in settings_of(other)]
        hint = f"; it is a setting of {', '.join(own)}" if own else ""
        raise UserError(f"{owner}: {name} has no setting {unknown[0]!r}, it has {', '.join(settings)}{hint}")
    return typed(DATASETS[name], given, owner)


def settings_of(name: str) -> tuple[str, ...]:
    """What YAML may set of a data set."""
    return tuple(field.name for field in dataclasses.fields(DATASETS[name]))
