"""The compiler's cycles are added up over loops, and custom kernels are told apart."""

import pytest

from rmat_jax.plan.cycles import CLOCKS, estimate

TEXT = """HloModule jit_step, entry_computation_layout={()->f32[]}

%inner (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %fusion.9 = f32[8]{0} fusion(%p.1), kind=kLoop, calls=%f, metadata={op_name="jit(step)/while/body/closed_call/layers/mlp/mul"}, backend_config={"estimated_cycles":"7"}
}

%inner_end (p.2: (s32[], f32[8])) -> pred[] {
  %p.2 = (s32[], f32[8]) parameter(0)
}

%outer (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.3 = (s32[], f32[8]) parameter(0)
  %dot.1 = f32[8]{0} convolution(%p.3), metadata={op_name="jit(step)/transpose(x)/layers/ask/key"}, backend_config={"estimated_cycles":"100"}
  %kernel.1 = bf16[2,128]{1,0} custom-call(%p.3), custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[2,64]{1,0}, s32[4]{0}}, metadata={op_name="jit(step)/layers/attend/splash"}
  %while.2 = (s32[], f32[8]) while(%p.3), condition=%inner_end, body=%inner, backend_config={"known_trip_count":{"n":"4"}}
}

%outer_end (p.4: (s32[], f32[8])) -> pred[] {
  %p.4 = (s32[], f32[8]) parameter(0)
}

ENTRY %main (p.0: (s32[], f32[8])) -> f32[] {
  %p.0 = (s32[], f32[8]) parameter(0)
  %copy.1 = f32[8]{0} copy(%p.0), backend_config={"estimated_cycles":"5"}
  %while.1 = (s32[], f32[8]) while(%copy.1), condition=%outer_end, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501, as the compiler writes it


def test_an_operation_counts_as_often_as_the_loops_around_it_run():
    found = estimate(TEXT)
    assert found.cycles == 5 + 3 * 100 + 3 * 4 * 7
    assert found.kernels == 1 + 3 + 3 + 3 * 4
    # the control: a loop of another length
    assert estimate(TEXT.replace('"n":"4"', '"n":"5"')).cycles == found.cycles + 3 * 7


def test_a_custom_kernel_has_bytes_and_no_cycles():
    (kernel,) = estimate(TEXT).custom
    assert kernel.cycles is None and kernel.runs == 3
    assert kernel.kernel_bytes == 3 * (2 * 128 * 2 + 2 * 64 * 2 + 4 * 4)


def test_the_dearest_come_first_under_the_names_of_the_model():
    first, second, *_ = estimate(TEXT).dearest()
    assert (first.source, first.runs, first.cycles) == ("backward: layers/ask/key", 3, 300)
    assert (second.source, second.runs, second.cycles) == ("layers/mlp/mul", 12, 84)
    assert len(estimate(TEXT).dearest(1)) == 1


def test_a_loop_of_unknown_length_is_told():
    with pytest.raises(ValueError, match="how often does the loop while.2 run"):
        estimate(TEXT.replace('"known_trip_count":{"n":"4"}', '"x":0'))


def test_the_clock_is_that_of_the_data_sheet():
    """v4 at 1.05 GHz, as its data sheet says; v5e at its 197 TFLOPS by 4 units of 128 x 128."""
    assert CLOCKS["v4"] == 1.05e9
    assert CLOCKS["v5e"] == pytest.approx(197e12 / (4 * 128 * 128 * 2), rel=0.01)
