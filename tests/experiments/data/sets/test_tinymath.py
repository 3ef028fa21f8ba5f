from experiments.data.sets import data_config
from experiments.data.sets.tinymath import TinyMath
from experiments.tinymath.task import generate


def test_it_knows_which_steps_are_right_whatever_ends_them():
    label = TinyMath(name="tinymath", split="train", num_problems=3).step_labels()
    made = generate("train", 3)[2]
    steps = made.solution.split("\n\n")
    assert label(made.id, steps) == [True] * len(steps)
    assert label(made.id, [f"{step}\n\n" for step in steps]) == [True] * len(steps)
    assert label(made.id, ["oops", *steps[1:]]) == [False] * len(steps)


def test_no_other_data_set_claims_to():
    assert data_config({"name": "gsm8k"}).step_labels() is None
