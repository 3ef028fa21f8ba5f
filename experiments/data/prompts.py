"""What prompts of several data sets share."""

LETTERS = "ABCDEFGHIJ"
"""Of choices."""


def boxed(problem: str) -> str:
    """As Qwen2.5-Math (arXiv 2409.12122) and DeepSeek-R1 (arXiv 2501.12948) ask for mathematics."""
    return f"{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
