"""Dataclass trees (Flax modules included) as text, as JSON, and with fields replaced by name."""

import ast
import dataclasses
import difflib
import importlib
import json

from lmlab.errors import UserError


def fields(node):
    """Names of the fields that configure `node`; a Flax module's own bookkeeping is not among them."""
    return [f.name for f in dataclasses.fields(node) if f.init and f.name not in ("parent", "name")]


def _is_node(value):
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_text(node, indent=""):
    """One field per line, nested by indentation; deterministic, for people and for comparison."""
    lines = [type(node).__name__]
    for name in fields(node):
        value = getattr(node, name)
        inner = indent + "  "
        if _is_node(value):
            lines.append(f"{inner}{name}: {to_text(value, inner)}")
        elif isinstance(value, tuple) and any(_is_node(v) for v in value):
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
    module, _, name = data["class"].partition(":")
    if module.split(".")[0] not in ("lmlab", "experiments"):
        raise UserError(f"The run names the class {data['class']}, which is not lmlab's.")
    try:
        cls = getattr(importlib.import_module(module), name)
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


def replace(node, path, text):
    """`node` with the field at the dotted `path` set to the Python literal `text` (or to it as a string).

    UserError for an unknown field, naming the nearest right one, and for a value of another type.
    """
    name, _, rest = path.partition(".")
    if isinstance(node, tuple) and name.isdigit() and int(name) < len(node):
        value = replace(node[int(name)], rest, text)
        return node[: int(name)] + (value,) + node[int(name) + 1 :]
    if not _is_node(node) or name not in fields(node):
        raise KeyError(name)
    old = getattr(node, name)
    value = replace(old, rest, text) if rest else _parse(old, text, path)
    return node.clone(**{name: value}) if hasattr(node, "clone") else dataclasses.replace(node, **{name: value})


def _parse(old, text, path):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, bool) or _is_node(old):
        fits = isinstance(value, bool) and not _is_node(old)
    elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value), True
    else:
        fits = old is None or value is None or type(value) is type(old)
    if not fits:
        kind = "a part of its own; set one of its fields" if _is_node(old) else f"{type(old).__name__}, like {old!r}"
        raise UserError(f"{path}={text} does not fit: {path} is {kind}.")
    return value


def paths(node, prefix=""):
    """All dotted paths to fields below `node`."""
    result = []
    children = enumerate(node) if isinstance(node, tuple) else [(n, getattr(node, n)) for n in fields(node)]
    for name, value in children:
        result.append(f"{prefix}{name}")
        if _is_node(value) or (isinstance(value, tuple) and any(_is_node(v) for v in value)):
            result += paths(value, f"{prefix}{name}.")
    return result


def override(node, assignments):
    """Apply `path=value` strings in order."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes FIELD=VALUE, not {assignment!r}.")
        try:
            node = replace(node, path, text)
        except KeyError:
            known = paths(node)
            near = [p for p in known if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
            near = near[:1] or difflib.get_close_matches(path, known, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UserError(f"There is no field {path}{hint}") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{assignment} does not fit: {error}.") from error
    return node
