"""What compiled programs cost, read from their text."""

import pytest

from lmlab.kernels import hlo


@pytest.mark.parametrize(
    "text, hbm, other",
    [
        ("f32[2,9,1]{2,1,0:T(8,128)}", 2 * 16 * 128 * 4, 0),
        ("f32[9,200]{0,1:T(8,128)S(1)}", 0, 128 * 200 * 4),  # column-major: 200 rows of 9
        ("bf16[3,8,128]{2,1,0:T(8,128)(2,1)}", 3 * 8 * 128 * 2, 0),
        ("pred[100]{0:T(512)}", 512, 0),
        ("(s32[]{:T(128)S(6)}, f32[4]{0}, u8[2,4]{1,0})", 24, 4),
    ],
)
def test_values_are_counted_padded_to_their_tiles(text, hbm, other):
    assert hlo.shape_bytes(text) == (hbm, other)


HLO = """HloModule jit_f, is_scheduled=true

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %one = s32[]{:T(128)} constant(1)
  %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %next = s32[]{:T(128)} add(%i, %one)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %k.2 = f32[8,128]{1,0:T(8,128)} custom-call(%x, %i), custom_call_target="tpu_custom_call", metadata={}
  %y = f32[8,128]{1,0:T(8,128)} fusion(%k.2), calls=%inner, backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) tuple(%next, %y)
}

%condition (t.1: (s32[], f32[8,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(7)
  %t.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main.4 (x.1: f32[8,128]) -> f32[8,128] {
  %two = s32[]{:T(128)} constant(2)
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)} copy(%two)
  %z = f32[8,128]{1,0:T(8,128)} fusion(%x.1), calls=%inner.1, backend_config={"estimated_cycles":"30"}
  %tuple = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%start, %z)
  %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %last = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""


@pytest.mark.parametrize(
    "old, new, trips, unknown",
    [
        ("", "", 5, 0),
        ("condition=%condition", 'condition=%condition, backend_config={"known_trip_count":{"n":"9"}}', 9, 0),
        ("copy(%two)", "negate(%two)", 1, 1),
        ("constant(1)", "constant(3)", 1, 1),
    ],
)
def test_cycles_and_kernels_are_multiplied_by_trip_counts(old, new, trips, unknown):
    program = hlo.read(HLO.replace(old, new))
    assert program.cycles == 30 + 100 * trips and program.unknown_loops == unknown
    assert program.kernels == (hlo.Call("k.2", trips, 2 * 8 * 128 * 4 + 4, 0, 0),)


LINE = """HloModule f

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = {left} parameter(0)
  %w = {right} parameter(1)
  ROOT %y = {out} convolution(%x, %w), {rest}
}}
"""


@pytest.mark.parametrize(
    "left, right, out, rest, flops",
    [
        ("f32[8,5,96]", "f32[96,515,1]", "f32[8,5,515]", "window={size=1}, dim_labels=0bf_io0->0bf", 8 * 5 * 515 * 96),
        (  # a kernel of 3 x 4 features as dimensions of its own: each output meets one element of the left side
            "bf16[2,152,192,1,1]",
            "bf16[3,4,48,192,1]",
            "bf16[2,152,3,4,48]",
            "window={size=3x1x4 pad=2_2x0_0x3_3 rhs_reversal=1x0x1}, dim_labels=1bf02_02oi1->1b02f",
            2 * 152 * 3 * 4 * 48 * 192,
        ),
        ("f32[2,8,16]", "f32[3,16,32]", "f32[2,6,32]", "window={size=3}, dim_labels=b0f_0io->b0f", 2 * 6 * 3 * 16 * 32),
        (  # the outermost two outputs meet padding once
            "f32[2,8,16]",
            "f32[3,16,32]",
            "f32[2,8,32]",
            "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            2 * 22 * 16 * 32,
        ),
        (  # a batched product: the batch is a dimension with holes, of which each output meets one element
            "f32[4,8,16]",
            "f32[4,16,32]",
            "f32[4,8,32]",
            "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            4 * 8 * 16 * 32,
        ),
    ],
)
def test_products_count_what_meets(left, right, out, rest, flops):
    assert hlo.read(LINE.format(left=left, right=right, out=out, rest=rest)).flops == 2 * flops


def test_collectives_are_counted_by_kind():
    text = """HloModule f

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %sum = (f32[8,128]{1,0:T(8,128)}, bf16[16,128]{1,0}) all-reduce(%x, %x), replica_groups={}
  %alone = f32[8,128]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0},{1}}
  %apart = f32[8,128]{1,0:T(8,128)} all-reduce(%x), replica_groups=[4,1]<=[4]
  %both = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) all-reduce-start(%x, %x, %x)
  %alone = f32[8,128]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
  %start = (f32[8,128]{1,0:T(8,128)}, f32[32,128]{1,0:T(8,128)}) all-gather-start(%x), dimensions={0}
  ROOT %done = f32[32,128]{1,0:T(8,128)} all-gather-done(%start)
}
"""
    assert hlo.read(text).collectives == {
        "all-reduce f32": (2, 4 * 4096),
        "all-reduce bf16": (1, 4096),
        "all-gather f32": (1, 4 * 4096),
    }


def test_fused_collectives_count_once():
    """A gather in two pieces, each fused with something else, and the half of a sum that a device keeps."""
    text = """HloModule f

%piece.1 (x: bf16[8,128]) -> bf16[16,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  ROOT %gather.1 = bf16[16,128]{1,0} all-gather(%x), channel_id=7, dimensions={0}, frontend_attributes={chain_id="0"}
}

%piece.2 (y: bf16[8,128]) -> bf16[16,128] {
  %y = bf16[8,128]{1,0} parameter(0)
  ROOT %gather.2 = bf16[16,128]{1,0} all-gather(%y), channel_id=7, dimensions={0}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.1 (z: f32[16,128]) -> f32[8,128] {
  %z = f32[16,128]{1,0} parameter(0)
  ROOT %sum = f32[16,128]{1,0} all-reduce(%z), channel_id=1, to_apply=%add
}

ENTRY %main (a: bf16[8,128], b: f32[16,128]) -> f32[8,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %b = f32[16,128]{1,0} parameter(1)
  %one = bf16[16,128]{1,0} fusion(%a), kind=kOutput, calls=%piece.1
  %two = bf16[16,128]{1,0} fusion(%a), kind=kOutput, calls=%piece.2
  %half = f32[8,128]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %plain = f32[8,128]{1,0} reduce-scatter(%b), channel_id=2, dimensions={0}, to_apply=%add
}
"""
    assert hlo.read(text).collectives == {"all-gather bf16": (1, 4096), "reduce-scatter f32": (2, 2 * 8192)}


def test_of_a_conditional_one_branch_counts_with_all_that_it_holds():
    branch = """
%few{n} (x{n}: f32[8,128]) -> f32[8,128] {{
  %x{n} = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %k{n} = f32[8,128]{{1,0:T(8,128)}} custom-call(%x{n}), custom_call_target="tpu_custom_call"
  %sum{n} = f32[8,128]{{1,0:T(8,128)}} all-reduce(%k{n}), replica_groups={{}}
  ROOT %f{n} = f32[8,128]{{1,0:T(8,128)}} fusion(%sum{n}), calls=%inner, backend_config={{"estimated_cycles":"{n}"}}
}}
"""
    entry = """
ENTRY %main (p: s32[], x: f32[8,128]) -> f32[8,128] {
  %p = s32[]{:T(128)} parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %c = f32[8,128]{1,0:T(8,128)} conditional(%p, %x, %x), branch_computations={%few70, %few90}
}
"""
    program = hlo.read("HloModule f\n" + branch.format(n=70) + branch.format(n=90) + entry)
    assert program.cycles == 90 and [k.name for k in program.kernels] == ["k90"]
    assert program.collectives == {"all-reduce f32": (1, 4096)}
