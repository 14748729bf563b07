"""What the chips can do, from Google's documentation of each TPU generation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip: bf16 peak, HBM, ICI per link and direction, and its share of the data center's network, which joins slices
    (v5p 50 Gbps per chip, v5e 6.4 and v6e 25.6 Tbps per pod of 256)."""

    flops: float  # per second, bf16
    hbm_bytes: float  # per second
    link_bytes: float  # per second
    hertz: float  # of the clock that XLA's cycles are of
    network_bytes: float | None = None  # per second; None: not documented


CHIPS = {
    "v4": Chip(275e12, 1.23e12, 45e9, 1.05e9),
    "v5e": Chip(197e12, 0.82e12, 45e9, 1.5e9, 3.125e9),
    "v5p": Chip(459e12, 2.77e12, 90e9, 1.75e9, 6.25e9),
    "v6e": Chip(918e12, 1.64e12, 90e9, 1.75e9, 12.5e9),
}
KINDS = {  # what JAX calls a device that is one such chip
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def peak_flops(devices):
    """FLOP/s of all `devices` in bf16, or None if the peak of one is not known: better none than a guess."""
    kinds = [KINDS.get(device.device_kind) for device in devices]
    return None if None in kinds else sum(CHIPS[kind].flops for kind in kinds)
