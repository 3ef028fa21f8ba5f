"""The form that an answer must have: a JSON schema, in the words of each dialect."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["text", "json_object", "json_schema"]
_ANY_OBJECT = {"type": "object"}


class Format(BaseModel):
    """As `/v1/responses` has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Kind
    name: str | None = None
    description: str | None = None
    given: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None  # it is strict in any case

    @model_validator(mode="after")
    def _has_its_schema(self) -> "Format":
        if (self.type == "json_schema") != (self.given is not None):
            raise ValueError("wanted a schema with type json_schema, and with no other")
        return self

    @property
    def json_schema(self) -> str | None:
        """None where any text will do."""
        if self.type == "text":
            return None
        return json.dumps(_ANY_OBJECT if self.given is None else self.given)


class NamedSchema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    description: str | None = None
    given: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None  # it is strict in any case


class ResponseFormat(BaseModel):
    """As `/v1/chat/completions` has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Kind
    named: NamedSchema | None = Field(default=None, alias="json_schema")

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.named is not None):
            raise ValueError("wanted a json_schema with type json_schema, and with no other")
        return self

    @property
    def json_schema(self) -> str | None:
        """None where any text will do."""
        if self.type == "text":
            return None
        return json.dumps(_ANY_OBJECT if self.named is None else self.named.given)


class Text(BaseModel):
    """Of `/v1/responses`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Format | None = None

    @property
    def json_schema(self) -> str | None:
        return None if self.format is None else self.format.json_schema


def told_format(json_schema: str | None) -> dict[str, Any]:
    """As a response of `/v1/responses` says it again."""
    if json_schema is None:
        return {"type": "text"}
    return {"type": "json_schema", "name": "answer", "schema": json.loads(json_schema), "strict": True}
