"""The check of a run file against its schema: the sections, or one sentence about the first value that is wrong."""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from headway.core.errors import ConfigError
from headway.experiment.key_paths import hint, model_of, needed_by, shown, unknown_key
from headway.experiment.runfile_schema import Sections
from headway.experiment.runfile_text import plain_name

S = TypeVar("S", bound=BaseModel)
NEEDED = {"run.evaluate_every": 'a whole number from 1 or "never"'}


def check_sections(tables: Mapping[str, Any]) -> Sections:
    """The sections of a run file.

    Raises:
        ConfigError: in one sentence, with the path of the value at fault.
    """
    return check_tables(tables, Sections)


def check_tables(tables: Mapping[str, Any], schema: type[S]) -> S:
    """The tables of a file, by its schema.

    Raises:
        ConfigError: in one sentence, with the path of the value at fault.
    """
    for key in tables:
        if key not in schema.model_fields:
            raise ConfigError(unknown_key(key, schema.model_fields))
    try:
        return schema.model_validate(copy.deepcopy(dict(tables)))
    except ValidationError as error:
        # an unknown key first: it is often the misspelling of the one that is missing
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(_sentence(problems[0], schema)) from error


def _sentence(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """The sentence about a wrong value: its full path, the values that are possible, and the one in the file."""
    keys = [str(key) for key in problem["loc"]]
    model: Any = schema
    for depth, key in enumerate(keys):
        field = model.model_fields.get(key)
        if field is None:
            path = ".".join(keys[: depth + 1])
            return unknown_key(path, model.model_fields)
        below = model_of(field.annotation)
        if below is None or depth == len(keys) - 1:
            break
        model = below
    path = ".".join(keys[: depth + 1])
    if problem["type"] == "missing":
        return f"the run file needs {path!r}, which is missing."
    if problem["type"] == "string_pattern_mismatch":
        found = problem["input"]
        return (
            f"{path} is {shown(found)}, but a name consists of letters, digits and _ . + - and starts with a letter or "
            f"digit, since it names a folder: write {shown(plain_name(str(found)))}."
        )
    needed = NEEDED.get(path) or needed_by(field.annotation, field.metadata)
    place = f", [{path}]" if below is not None else ""
    found = problem["input"]
    kind, items = typing.get_origin(field.annotation), typing.get_args(field.annotation)
    if depth < len(keys) - 1 and kind is dict:
        path, needed = f"{path}.{keys[depth + 1]}", needed_by(items[1])
    elif depth < len(keys) - 1 and needed.startswith("a list"):
        return f"{path} must be {needed}, and one of its values is {shown(found)}."
    return f"{path} must be {needed}{place}, found {shown(found)}{hint(found, needed, path)}."
