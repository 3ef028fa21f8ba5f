"""`headrace bench faults`: faults at random times in a run over several Ray nodes, and what became of its rows.

`kinds` says what strikes and how it ends, `schedule` when, `scene` what is struck, `rows` and `leaks` what is looked at
afterwards, `table` what is told.
"""
