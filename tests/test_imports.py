"""The layering of the rooms, and what importing lmlab costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORDER = [
    {"errors"},
    {"config", "memory"},
    {"text", "kernels"},
    {"data", "models"},
    {"objectives"},
    {"decoding"},
    {"evaluation"},
    {"training"},
    {"report", "comparison"},
    {"runner"},
    {"convert", "experiment", "compile"},
    {"bench"},
    {"commands"},
    {"cli"},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(p for p in (ROOT / "lmlab").rglob("*.py") if p != ROOT / "lmlab" / "__init__.py")


def imports(path):
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "lmlab" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    here = path.relative_to(ROOT / "lmlab").parts[0].removesuffix(".py")
    for module in imports(path):
        there = room(module)
        if there in RANK and there != here:
            assert RANK[there] < RANK[here], f"{path} imports {module}"
        if here == "text":
            assert module.split(".")[0] not in ("jax", "flax"), f"{path} imports {module}"
        if here == "kernels":
            assert module.split(".")[0] != "flax", f"{path} imports {module}"


def test_experiments_do_not_import_one_another():
    for path in (ROOT / "experiments").glob("*.py"):
        assert not any(m.startswith("experiments") for m in imports(path)), path


def test_import_is_fast_and_light():
    code = (
        "import time; t = time.perf_counter(); import lmlab; s = time.perf_counter() - t; import sys;"
        "print(s, [m for m in ('jax', 'tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(" ", 1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 1.5
