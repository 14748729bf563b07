"""Kernels over rows whose positions are split over devices; what they hold is in positions_split.py."""

import pathlib

from tests import eight_devices


def test_split_positions_change_nothing():
    eight_devices.run(pathlib.Path(__file__).with_name("positions_split.py"))
