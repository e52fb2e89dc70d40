"""JAX computes what PyTorch computes, and the check says so only where it is true."""

import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rmat_jax import cli, flags
from rmat_jax.config import Config, UserError
from rmat_jax.interop import compare, crosscheck
from rmat_jax.interop.case import make_case
from rmat_jax.interop.dump import read_dump
from rmat_jax.interop.layout import random_weights
from rmat_jax.interop.run_torch import load_factory, reference, run_torch
from tests.laws.test_reference import everything
from tests.models import COVERING, name, tiny

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "interop" / "golden.safetensors"


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors; two thread pools on two cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def case_of(**options):
    config = Config(model=tiny(**options))
    return make_case(config, random_weights(config.model, 0), steps=3)


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_float64_agrees_to_nine_digits(options):
    report = crosscheck.crosscheck(case_of(**options), "float64")
    assert report.passed, report.text()
    assert not report.not_offered
    assert {d.quantity for d in report.differences} >= {"layer output", "gradient", "update", "streamed logits"}


@pytest.mark.slow
@pytest.mark.parametrize("options", list(everything()), ids=name)
def test_float64_agrees_in_every_combination(options):
    test_float64_agrees_to_nine_digits(options)


@pytest.mark.parametrize("bptt_chunks", [1, 2])
def test_float64_agrees_where_the_memory_is_detached(bptt_chunks):
    report = crosscheck.crosscheck(case_of(bptt_chunks=bptt_chunks), "float64")
    assert report.passed, report.text()


def test_float32_agrees_within_its_derived_tolerance(capfd):
    report = crosscheck.crosscheck(crosscheck.load_case(steps=10), "float32")
    assert report.passed, report.text()
    shares = {quantity: [d.share for d in report.differences if d.quantity == quantity] for quantity in compare.QUANTITIES}
    assert max(shares["layer output"]) < 0.2, "the tolerance has room"
    assert max(shares["layer output"]) > 1e-4, "and is not beyond what a fault would do"
    assert "tolerances of float32" in capfd.readouterr().err  # progress
