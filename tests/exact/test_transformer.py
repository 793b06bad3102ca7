"""The real loop takes a LoRA policy to the known optimum, as near as training every weight does."""

from pathlib import Path

import pytest

from tests.exact.transformer import loop_config, train_adapter, train_every_weight

KL_COEF = 0.35
GAP_CLOSED, KL_TOLERANCE, BEHIND_YARDSTICK = 0.95, 0.1, 0.02


@pytest.mark.slow
def test_an_adapter_reaches_the_optimum_through_the_loop(tmp_path: Path) -> None:
    config = loop_config(KL_COEF)
    found, yardstick = train_adapter(tmp_path, config), train_every_weight(config)
    assert found.gap_closed >= GAP_CLOSED, str(found)
    assert found.kl_ratio == pytest.approx(1, abs=KL_TOLERANCE), str(found)
    assert found.gap_closed >= yardstick.gap_closed - BEHIND_YARDSTICK, f"{found}; every weight: {yardstick}"
