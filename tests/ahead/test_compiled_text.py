"""Programs as XLA writes them, small and with bytes counted by hand: collectives and traffic."""

import pytest

from vgg_jax.ahead.chips import Chip
from vgg_jax.ahead.collectives import Collective, collectives
from vgg_jax.ahead.hlo import parse
from vgg_jax.ahead.roofline import roofline
from vgg_jax.ahead.schedule import waiting
from vgg_jax.ahead.traffic import traffic, traffic_without_products

GPU = """
HloModule jit_step, is_scheduled=true

%add.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.9 = f32[] add(%x, %y)
}

%fused_add (param_0: bf16[8,4], param_1: bf16[8,4]) -> bf16[8,4] {
  %param_0 = bf16[8,4]{1,0} parameter(0)
  %param_1 = bf16[8,4]{1,0} parameter(1)
  ROOT %add.1 = bf16[8,4]{1,0} add(%param_0, %param_1)
}

%body (carry: (s32[], f32[100])) -> (s32[], f32[100]) {
  %carry = (s32[], f32[100]{0}) parameter(0)
  %number = s32[] get-tuple-element(%carry), index=0
  %sums = f32[100]{0} get-tuple-element(%carry), index=1
  %start = f32[100]{0} all-reduce-start(%sums), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.clone
  %done = f32[100]{0} all-reduce-done(%start)
  ROOT %next = (s32[], f32[100]{0}) tuple(%number, %done)
}

%condition (carry.1: (s32[], f32[100])) -> pred[] {
  %carry.1 = (s32[], f32[100]{0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main.42_spmd (param.1: bf16[8,4], param.2: f32[100]) -> (bf16[8,4], f32[100]) {
  %param.1 = bf16[8,4]{1,0} parameter(0), metadata={op_name="state (of a run)"}
  %param.2 = f32[100]{0} parameter(1)
  %zero = s32[] constant(0)
  %fusion = bf16[8,4]{1,0} fusion(%param.1, %param.1), kind=kLoop, calls=%fused_add
  %gathered-start = ((bf16[8,4]{1,0}), bf16[16,4]{1,0}) all-gather-start(%fusion), channel_id=1, \
replica_groups=[4,2]<=[8]
  %gathered = bf16[16,4]{1,0} all-gather-done(%gathered-start)
  %first = (s32[], f32[100]{0}) tuple(%zero, %param.2)
  %loop = (s32[], f32[100]{0}) while(%first), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %sums.1 = f32[100]{0} get-tuple-element(%loop), index=1
  ROOT %result = (bf16[8,4]{1,0}, f32[100]{0}) tuple(%fusion, %sums.1)
}
"""

TPU = """
%fused (p: bf16[10]) -> bf16[20] {
  %p = bf16[10]{0:T(128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[20]{0:T(128)(2,1)S(1)} all-gather(%p), channel_id=46, \
replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_0'}, dimensions={0}
}

%fused.1 (q: bf16[10]) -> bf16[20] {
  %q = bf16[10]{0:T(128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[20]{0:T(128)(2,1)} all-gather(%q), channel_id=46, \
replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_0'}, dimensions={0}
}

ENTRY %main (x: bf16[10], y: f32[6]) -> f32[6] {
  %x = bf16[10]{0:T(128)(2,1)} parameter(0)
  %y = f32[6]{0:T(128)} parameter(1)
  %a = bf16[20]{0:T(128)(2,1)} fusion(%x), kind=kCustom, calls=%fused
  %b = bf16[20]{0:T(128)(2,1)} fusion(%x), kind=kCustom, calls=%fused.1
  %r = (f32[6]{0:T(128)}, f32[6]{0:T(128)}) all-reduce(%y, %y), channel_id=2, replica_groups={}, to_apply=%fused
  ROOT %z = f32[6]{0:T(128)} get-tuple-element(%r), index=0
}
"""


def test_a_gpus_collectives_count_in_loops_as_often_as_these_run():
    found = collectives(parse(GPU), chips=8)
    assert found == [
        Collective("all-reduce", 4, 3, 3 * 400),  # 100 numbers of 4 bytes, three times
        Collective("all-gather", 2, 1, 2 * 64),  # 8 x 4 of 2 bytes from each of two
    ]
    assert [each.sent for each in found] == [2 * 3 / 4 * 1200, 1 / 2 * 128]


def test_a_tpus_collective_beside_several_products_counts_once():
    assert collectives(parse(TPU), chips=4) == [
        Collective("all-reduce", 4, 1, 48),  # among all, for no groups are named
        Collective("all-gather", 2, 1, 40),
    ]


def test_traffic_is_what_kernels_read_and_write():
    fusion = 3 * 64  # both operands and the result
    gathered = 64  # what is read; that its end writes elsewhere is the interconnect's
    assert traffic(parse(GPU)) == fusion + gathered + 3 * 400


IN_PLACE = """
%fused_scatter (map: bf16[8,6,4], place: s32[8,2]) -> bf16[8,6,4] {
  %map = bf16[8,6,4]{2,1,0} parameter(0)
  %place = s32[8,2]{1,0} parameter(1)
  %zero = bf16[] constant(0)
  %zeros = bf16[8,1,1,4]{3,2,1,0} broadcast(%zero), dimensions={}
  ROOT %scatter = bf16[8,6,4]{2,1,0} scatter(%map, %place, %zeros), update_window_dims={1,2,3}
}

%fused_update (map.1: bf16[8,6,4], row: bf16[1,6,4]) -> bf16[8,6,4] {
  %row = bf16[1,6,4]{2,1,0} parameter(1)
  %map.1 = bf16[8,6,4]{2,1,0} parameter(0)
  %first = s32[] constant(0)
  %negated = bf16[8,6,4]{2,1,0} negate(%map.1)
  ROOT %update = bf16[8,6,4]{2,1,0} dynamic-update-slice(%negated, %row, %first, %first, %first)
}

ENTRY %main (x: bf16[8,6,4], p: s32[8,2], r: bf16[1,6,4]) -> bf16[8,6,4] {
  %x = bf16[8,6,4]{2,1,0} parameter(0)
  %p = s32[8,2]{1,0} parameter(1)
  %r = bf16[1,6,4]{2,1,0} parameter(2)
  %zero.1 = s32[] constant(0)
  %a = bf16[8,6,4]{2,1,0} fusion(%x, %p), kind=kInput, calls=%fused_scatter
  %b = bf16[8,6,4]{2,1,0} fusion(%a, %r), kind=kLoop, calls=%fused_update
  ROOT %c = bf16[8,6,4]{2,1,0} dynamic-update-slice(%b, %r, %zero.1, %zero.1, %zero.1)
}
"""


def test_traffic_of_an_update_in_place_is_what_it_writes():
    whole, row, places, line, place = 2 * 8 * 6 * 4, 2 * 6 * 4, 4 * 8 * 2, 2 * 8 * 4, 3 * 4
    elsewhere = whole + row + whole  # what is updated is computed in the kernel: read and written
    assert traffic(parse(IN_PLACE)) == (places + line) + elsewhere + (row + place + row)


PRODUCTS = """
%fused_dot (k: f32[4,8], l: f32[8,4]) -> f32[4,4] {
  %k = f32[4,8]{1,0} parameter(0)
  %l = f32[8,4]{1,0} parameter(1)
  ROOT %dot = f32[4,4]{1,0} dot(%k, %l), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%fused_negate (y: f32[4,4]) -> f32[4,4] {
  %y = f32[4,4]{1,0} parameter(0)
  ROOT %z = f32[4,4]{1,0} negate(%y)
}

ENTRY %main (k: f32[4,8], l: f32[8,4]) -> f32[4,4] {
  %k.1 = f32[4,8]{1,0} parameter(0)
  %l.1 = f32[8,4]{1,0} parameter(1)
  %a = f32[4,4]{1,0} fusion(%k.1, %l.1), kind=kCustom, calls=%fused_dot
  %b = f32[4,4]{1,0} custom-call(%a, %a), custom_call_target="__cublas$lt$matmul"
  %c = f32[4,4]{1,0} custom-call(%b, %a), custom_call_target="__cudnn$convBackwardFilter"
  %d = f32[4,4]{1,0} fusion(%c), kind=kLoop, calls=%fused_negate
  ROOT %e = f32[4,4]{1,0} custom-call(%d), custom_call_target="__topk"
}
"""


def test_what_kernels_without_products_move_is_counted():
    assert traffic(parse(PRODUCTS)) == (128 + 128 + 64) + 2 * (64 + 64 + 64) + 2 * (64 + 64)
    assert traffic_without_products(parse(PRODUCTS)) == 2 * (64 + 64)
    assert traffic_without_products(parse(GPU)) == 3 * 64  # its collectives run beside others


def test_a_roofline_by_hand():
    chip = Chip(peak=100.0, memory=1.0, bandwidth=10.0, link=5.0, host=2, network=1.0)
    near, far = Collective("all-reduce", 2, 1, 20), Collective("all-reduce", 4, 1, 20)
    line = roofline(chip, operations=300.0, traffic=20.0, collectives=[near])
    assert (line.products, line.memory, line.interconnect) == (3.0, 2.0, 20 / 5)
    assert (line.alone, line.best, line.worst) == (3.0, 4.0, 7.0)
    # Half of the bytes are moved while nothing is multiplied.
    line = roofline(chip, 300.0, 20.0, [near], apart=10.0)
    assert (line.alone, line.best, line.worst) == (4.0, 4.0, 8.0)
    # 2 * 3/4 * 20 bytes over the links, and the half of it, for two share a host, over the network.
    assert roofline(chip, 300.0, 20.0, [far]).interconnect == pytest.approx(30 / 5 + 15)


SCHEDULE = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

ENTRY %main (a: f32[10], b: f32[100]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %start = f32[10]{0} all-reduce-start(%a), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %start.1 = f32[100]{0} all-reduce-start(%b), channel_id=2, replica_groups={{0,1}}, to_apply=%add
  %negated = f32[100]{0} negate(%b)
  %done = f32[10]{0} all-reduce-done(%start)
  %done.1 = f32[100]{0} all-reduce-done(%start.1)
  ROOT %last = f32[10]{0} all-reduce(%done), channel_id=3, replica_groups={{0,1}}, to_apply=%add
}
"""


def test_a_program_waits_for_what_its_schedule_does_not_hide():
    chip = Chip(peak=1.0, memory=1.0, bandwidth=10.0, link=1.0)
    # The links are busy from 0 to 40 and to 440; the 800 bytes beside them take 80 s; the last is waited for.
    assert waiting(parse(SCHEDULE), chip, chips=2) == pytest.approx((440 - 80) + 40)
