"""Dataclass trees (Flax modules included) as text, as JSON, and with fields replaced by name."""

import ast
import dataclasses
import difflib
import importlib
import json
import types
import typing

from lmlab.errors import UserError


def fields(node):
    """Names of the fields that configure `node`; a Flax module's own bookkeeping is not among them."""
    return [f.name for f in dataclasses.fields(node) if f.init and f.name not in ("parent", "name")]


def _is_node(value):
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _has_parts(value):
    return _is_node(value) or (isinstance(value, tuple) and any(_is_node(v) for v in value))


def to_text(node, indent=""):
    """One field per line, nested by indentation; deterministic, for people and for comparison."""
    lines = [type(node).__name__]
    for name in fields(node):
        value = getattr(node, name)
        inner = indent + "  "
        if _is_node(value):
            lines.append(f"{inner}{name}: {to_text(value, inner)}")
        elif _has_parts(value):
            lines.append(f"{inner}{name}:")
            lines += [f"{inner}  - {to_text(v, inner + '    ')}" for v in value]
        else:
            lines.append(f"{inner}{name}: {value!r}")
    return "\n".join(lines)


def to_json(value):
    """Plain data from which `from_json` rebuilds the tree."""
    if _is_node(value):
        cls = type(value)
        return {"class": f"{cls.__module__}:{cls.__qualname__}"} | {
            name: to_json(getattr(value, name)) for name in fields(value)
        }
    if isinstance(value, tuple):
        return {"tuple": [to_json(v) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be part of a run.")


def from_json(data):
    """The inverse of `to_json`. Builds only dataclasses of lmlab and of experiments."""
    if not isinstance(data, dict):
        return data
    if "tuple" in data:
        return tuple(from_json(v) for v in data["tuple"])
    named = str(data.get("class"))
    module, _, name = named.partition(":")
    if module.split(".")[0] not in ("lmlab", "experiments"):
        raise UserError(f"The run names the class {named}, which is not lmlab's.")
    try:
        cls = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise TypeError(f"{named} is no dataclass")
        return cls(**{k: from_json(v) for k, v in data.items() if k != "class"})
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"The run was made by another version of lmlab: {error}.") from error


def load_json(path):
    """A JSON file, or one sentence about what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error


def _parse(old, hint, text, path):
    """The Python literal `text` (or else `text` itself) as a value of the annotated type `hint`."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if _has_parts(old):
        if isinstance(old, tuple) and value == ():
            return value
        raise UserError(f"{path}={text} does not fit: {path} has parts of its own; set their fields.")
    for option in options:
        if option is typing.Any or type(value) is option:
            return value
        if option is float and type(value) is int:
            return float(value)
        if option is str:
            return text
        if typing.get_origin(option) is tuple and isinstance(value, tuple):
            element = typing.get_args(option)[0]
            if all(type(v) is element or (element is float and type(v) is int) for v in value):
                return tuple(map(element, value))
    kind = hint.__name__ if isinstance(hint, type) else hint
    raise UserError(f"{path}={text} does not fit: {path} is {kind}, like {old!r}.")


def paths(node, prefix=""):
    """All dotted paths to fields below `node`."""
    result = []
    children = enumerate(node) if isinstance(node, tuple) else [(n, getattr(node, n)) for n in fields(node)]
    for name, value in children:
        result.append(f"{prefix}{name}")
        if _has_parts(value):
            result += paths(value, f"{prefix}{name}.")
    return result


def _replace(node, texts, prefix=""):
    """`node` with the fields at the dotted paths of `texts` parsed and replaced.

    All at once: of two fields that must fit one another, either alone may be refused by the dataclass.
    """
    if isinstance(node, tuple):
        return tuple(_replace(child, texts, f"{prefix}{i}.") for i, child in enumerate(node))
    if not _is_node(node):
        return node
    hints, values = typing.get_type_hints(type(node)), {}
    for name in fields(node):
        path, old = prefix + name, getattr(node, name)
        if path in texts:
            values[name] = _parse(old, hints[name], texts[path], path)
        elif any(other.startswith(f"{path}.") for other in texts):
            values[name] = _replace(old, texts, f"{path}.")
    return node.clone(**values) if hasattr(node, "clone") else dataclasses.replace(node, **values)


def override(node, assignments):
    """`node` with fields replaced by `path=value` strings, all at once; of two for one field the last counts.

    UserError for an unknown field, naming the nearest right one, and for a value of another type.
    """
    texts = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes FIELD=VALUE, not {assignment!r}.")
        known = paths(node)
        if path not in known or path.rsplit(".", 1)[-1].isdigit():
            last = {p: p.rsplit(".", 1)[-1] for p in (path, *known)}
            alike = difflib.get_close_matches(last[path], [last[p] for p in known], 1, 0.75)
            ours = [p for p in known if [last[p]] == alike]
            near = difflib.get_close_matches(path, ours, 1, 0.0) or difflib.get_close_matches(path, known, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near and near[0] != path else "."
            raise UserError(f"There is no field {path}{hint}")
        texts[path] = text
    try:
        return _replace(node, texts)
    except (ValueError, TypeError) as error:
        raise UserError(f"{' '.join(assignments)} does not fit: {error}.") from error
