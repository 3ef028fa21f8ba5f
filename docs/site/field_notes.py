"""Shows the comment behind a field as its documentation: `n: int = 16  # samples` is documented as "samples"."""

import re
from typing import Any

from griffe import Attribute, Docstring, Extension, ObjectNode

NOTE = re.compile(r"\s#\s(?!type:|noqa)(.+)$")


class FieldNotes(Extension):
    """Reads the last line of each attribute of a class that has no docstring of its own."""

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        if isinstance(node, ObjectNode) or attr.docstring is not None or attr.endlineno is None:
            return
        if attr.parent is None or not attr.parent.is_class:
            return
        note = NOTE.search(attr.lines_collection[attr.filepath][attr.endlineno - 1])
        if note is not None:
            attr.docstring = Docstring(note.group(1), lineno=attr.endlineno, endlineno=attr.endlineno, parent=attr)
