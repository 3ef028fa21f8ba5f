"""Shows the comments behind fields as a table of the class: `n: int = 16  # samples` is a row with "samples"."""

import re
from typing import Any

from griffe import Attribute, Class, Docstring, Extension

NOTE = re.compile(r"\s#\s(?!type:|noqa)(.+)$")


class FieldNotes(Extension):
    """Adds a section `Attributes` to the docstring of each class whose fields have comments."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        notes = [(name, note) for name, member in cls.members.items() if (note := note_of(member)) is not None]
        if not notes:
            return
        said = "" if cls.docstring is None else cls.docstring.value
        rows = "\n".join(f"    {name}: {note}" for name, note in notes)
        cls.docstring = Docstring(f"{said}\n\nAttributes:\n{rows}", lineno=cls.lineno, parent=cls, parser="google")


def note_of(member: Any) -> str | None:
    """The comment on the last line of a field that has no docstring."""
    if not isinstance(member, Attribute) or member.docstring is not None or member.endlineno is None:
        return None
    found = NOTE.search(member.lines_collection[member.filepath][member.endlineno - 1])
    return None if found is None else found.group(1)
