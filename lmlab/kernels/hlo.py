"""What the text of a compiled TPU program says of its cost: estimated cycles, FLOPs, kernels and collectives, each
times the trip counts of the loops around it."""

import dataclasses
import functools
import math
import re

import numpy as np

_ALONE = r"replica_groups=(\{\{\d+\}(,\{\d+\})*\}|\[\d+,1\]<=)"  # groups of one device: nothing moves
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


@dataclasses.dataclass(frozen=True)
class Call:
    """One `tpu_custom_call`. Bytes are of operands and results, as in `lmlab.kernels.aot.Kernel`."""

    name: str
    calls: int  # in one run of the program
    hbm_bytes: int  # of one call
    vmem_bytes: int  # of one call
    flops: int  # of one call, as the kernel states them, or `_splash_flops`


@dataclasses.dataclass(frozen=True)
class Program:
    """One run of a program on one device."""

    cycles: int  # XLA's estimates; kernels have none and count 0, collectives are only issued
    unknown_loops: int  # loops whose trip count could not be read: counted once
    kernels: tuple[Call, ...]
    collectives: dict[str, tuple[int, int]]  # "kind dtype": (runs, bytes of their results)
    flops: int  # of the products of matrices outside kernels


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: list[str]
    rest: str  # what follows the operands
    text: str  # between the operands' parentheses
    root: bool


def _group(text, start):
    """The end of the parenthesis that opens at `start`."""
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if not depth:
            return end + 1
    raise ValueError(f"unbalanced: {text[start:start + 80]}")


def _computations(hlo):
    """{computation: [instruction]} and the entry's name."""
    computations, entry, body = {}, None, None
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.\-<>]+) \(.*\{$", line):
            body = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif body is not None and (match := re.match(r"\s+(ROOT )?%([\w.\-<>]+) = ", line)):
            start = match.end()
            stop = _group(line, start) if line[start] == "(" else line.index(" ", start)
            opened = line.index("(", stop)
            closed = _group(line, opened)
            inner = line[opened + 1 : closed - 1]
            operands = re.findall(r"%([\w.\-<>]+)", inner)
            opcode = line[stop:opened].strip()
            body.append(
                _Instruction(match[2], line[start:stop], opcode, operands, line[closed:], inner, bool(match[1]))
            )
    return computations, entry


def shape_bytes(text):
    """(bytes in HBM, bytes elsewhere) of an HLO shape, e.g. "bf16[2,9]{1,0:T(8,128)(2,1)}", padded to its tiles.

    Tuples add up. `S(n)` in a layout names another memory than HBM.
    """
    sizes = [0, 0]
    for kind, dims, layout in re.findall(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?", text):
        bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])
        dims = [int(d) for d in dims.split(",") if d]
        order, _, tiles = layout.partition(":")
        if minor_to_major := [int(d) for d in order.split(",") if d]:
            dims = [dims[d] for d in reversed(minor_to_major)]
        if tile := re.search(r"T\(([\d,]+)\)", tiles):
            for i, size in enumerate(reversed([int(d) for d in tile[1].split(",")]), 1):
                if i <= len(dims):
                    dims[-i] = -(-dims[-i] // size) * size
        sizes["S(" in tiles] += math.prod(dims) * bits // 8
    return tuple(sizes)


def _trip_count(loop, computations, names):
    """The trips of a `while`: what XLA states, or the bound of a counter that starts at a constant and steps by 1."""
    if stated := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(stated[1])
    start = names.get(loop.operands[0])

    def constant(name, follow=True):
        """The constant behind a name; of an element of the loop's tuple, its first value."""
        while (at := names.get(name)) is not None:
            if at.opcode == "constant":
                return int(at.text) if re.fullmatch(r"-?\d+", at.text) else None
            if at.opcode == "get-tuple-element" and follow and start is not None and start.opcode == "tuple":
                name, follow = start.operands[int(re.search(r"index=(\d+)", at.rest)[1])], False
            elif at.opcode in ("copy", "bitcast"):
                name = at.operands[0]
            else:
                return None
        return None

    body = computations[re.search(r"body=%([\w.\-<>]+)", loop.rest)[1]]
    test = next(i for i in computations[re.search(r"condition=%([\w.\-<>]+)", loop.rest)[1]] if i.root)
    if test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    counter = names[test.operands[0]]
    if counter.opcode != "get-tuple-element":
        return None
    first, bound = constant(counter.name), constant(test.operands[1])
    new = next(i for i in body if i.root)
    step = names[new.operands[int(re.search(r"index=(\d+)", counter.rest)[1])]] if new.opcode == "tuple" else None
    if first is None or bound is None or step is None or step.opcode != "add" or constant(step.operands[1]) != 1:
        return None
    return max(bound - first, 0)


def _dims(shape):
    return [int(d) for d in re.search(r"\[([\d,]*)\]", shape)[1].split(",") if d]


@functools.lru_cache(maxsize=None)
def _hits(out, size, kernel, stride, low, dilate, kernel_dilate):
    """Pairs of an output and a kernel position of one dimension that meet an element, not padding nor a hole."""
    at = np.arange(out, dtype=np.int64) * stride - low
    hits = 0
    for k in range(kernel):
        met = at + k * kernel_dilate
        hits += int(np.sum((met >= 0) & (met < (size - 1) * dilate + 1) & (met % dilate == 0)))
    return hits


def product_flops(instruction, names):
    """FLOPs of a `dot`, or of a `convolution`, which is what a TPU's compiler makes of one."""
    left, right = [_dims(names[o].shape) for o in instruction.operands[:2]]
    out = _dims(instruction.shape)
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)[1]
        return 2 * math.prod(out) * math.prod(left[int(d)] for d in contracted.split(",") if d)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    lhs, rhs, result = labels[1], labels[2], labels[3]
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    fields = dict(f.split("=") for f in window[1].split()) if window else {}
    spatial = sorted(c for c in rhs if c.isdigit())

    def per_dimension(name, default):
        return fields[name].split("x") if name in fields else [default] * len(spatial)

    stride, dilate, kernel_dilate, pad = (
        per_dimension(*f) for f in (("stride", "1"), ("lhs_dilate", "1"), ("rhs_dilate", "1"), ("pad", "0_0"))
    )
    flops = 2 * out[result.index("b")] * out[result.index("f")] * right[rhs.index("i")]
    for i, d in enumerate(spatial):
        flops *= _hits(
            out[result.index(d)],
            left[lhs.index(d)],
            right[rhs.index(d)],
            int(stride[i]),
            int(pad[i].split("_")[0]),
            int(dilate[i]),
            int(kernel_dilate[i]),
        )
    return flops


def _splash_flops(instruction, names):
    """Of JAX's splash attention, which states none: whole blocks of its grid, which its first operand numbers,
    [heads, queries, keys]."""
    operands = [names[o].shape for o in instruction.operands]
    queries, keys = _dims(operands[0])[-2:]
    *rows_heads, length, width = _dims(next(shape for shape in operands if re.match(r"bf16|f32", shape)))
    block = length // (keys if "dkv" in instruction.name else queries)
    products = 2 if "fwd" in instruction.name else 3 if "dq" in instruction.name else 4
    return products * 2 * math.prod(rows_heads) * queries * keys * block**2 * width


def read(hlo):
    """`Program` of compiled HLO text. Of a conditional's branches the one of the most cycles counts, with its FLOPs,
    kernels and collectives."""
    computations, entry = _computations(hlo)
    names = {i.name: i for body in computations.values() for i in body}
    cycles, flops, unknown, kernels, collectives = _visit(entry, 1, computations, names)
    moved = {}
    for kind, runs, size in collectives:
        before = moved.get(kind, (0, 0))
        moved[kind] = (before[0] + runs, before[1] + size)
    return Program(cycles, unknown, tuple(kernels), moved, flops)


def _visit(name, times, computations, names):
    """(cycles, FLOPs, unknown loops, kernels, collectives) of a computation that runs `times` times; the first two of
    one run."""
    cycles = flops = unknown = 0
    kernels, collectives = [], []

    def add(computation, trips=1, fused=False):
        nonlocal cycles, flops, unknown
        inner = _visit(computation, times * trips, computations, names)
        cycles, flops, unknown = cycles + (0 if fused else trips * inner[0]), flops + trips * inner[1], unknown + inner[2]
        kernels.extend(inner[3])
        collectives.extend(inner[4])

    for i in computations.get(name, ()):
        estimate = re.search(r'"estimated_cycles":"(\d+)"', i.rest)
        called = re.findall(r"(?:calls|to_apply|body|condition)=%([\w.\-<>]+)", i.rest)
        kind = i.opcode.removesuffix("-start")
        if i.opcode == "while":
            trips = _trip_count(i, computations, names)
            unknown += trips is None
            for computation in called:
                add(computation, 1 if trips is None else trips)
        elif i.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
            called = re.findall(r"(?:true|false)_computation=%([\w.\-<>]+)", i.rest)
            called = re.findall(r"%([\w.\-<>]+)", branches[1]) if branches else called
            add(max(called, key=lambda c: _visit(c, 1, computations, names)[:2]))
        elif i.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in i.rest:
            sizes = [shape_bytes(i.shape), *(shape_bytes(names[o].shape) for o in i.operands)]
            stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', i.rest)
            own = int(stated[1]) if stated else _splash_flops(i, names) if "splash" in i.name else 0
            kernels.append(Call(i.name, times, *(sum(s) for s in zip(*sizes, strict=True)), own))
        elif kind in COLLECTIVES and not re.search(_ALONE, i.rest):
            # Only these two carry their operands in the tuple that they start.
            with_operands = i.opcode in ("all-gather-start", "collective-permute-start")
            shape = _result_of_start(i.shape) if with_operands else i.shape
            for dtype in sorted(set(re.findall(r"(\w+)\[", shape))):
                parts = re.findall(rf"\b{dtype}\[[\d,]*\](?:\{{[^}}]*\}})?", shape)
                collectives.append((f"{kind} {dtype}", times, times * sum(sum(shape_bytes(part)) for part in parts)))
        elif i.opcode in ("call", "async-start") and not estimate:
            for computation in called:
                add(computation)
        else:
            cycles += int(estimate[1]) if estimate else 0
            flops += product_flops(i, names) if i.opcode in ("dot", "convolution") else 0
            if i.opcode == "fusion":
                for computation in called:
                    add(computation, fused=True)
    return cycles, flops, unknown, kernels, collectives


def _result_of_start(shape):
    """The results of an asynchronous collective's (operands, results, ..) tuple."""
    parts = re.match(r"\((\(.*?\)|[^()]*?\{.*?\}|\w+\[[^\]]*\]), (\(.*?\)|\w+\[[^\]]*\](?:\{.*?\})?)", shape)
    return parts[2] if parts else shape
