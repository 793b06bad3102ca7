"""Write how near to the known optimum every setting comes: python -m tests.exact.evidence OUT.json."""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.config.training import PpoConfig
from tests.exact.tabular import KL_COEFS, MUTANTS, table_config, train_mutant, train_table
from tests.exact.transformer import loop_config, train_adapter, train_every_weight
from tests.exact.world import Figures

SEEDS = (0, 1, 2, 3)
LOOP_SEEDS = (0, 1, 2)
MUTANT_KL_COEF = LOOP_KL_COEF = 0.35


def measure() -> Iterator[tuple[dict[str, Any], Figures]]:
    """Yield each setting with its figures: the table's, then those of the loop and its yardstick."""
    for seed in SEEDS:
        yield from _tables(seed)
    for seed in LOOP_SEEDS:
        yield from _transformers(seed)


def _tables(seed: int) -> Iterator[tuple[dict[str, Any], Figures]]:
    for kl_coef in KL_COEFS:
        for estimator in ("gae", "rloo"):
            setting = {"what": "table", "estimator": estimator, "kl_coef": kl_coef, "seed": seed}
            config = table_config(kl_coef, estimator, episodes=8192 if kl_coef == 0.2 else 4096)
            yield setting, train_table(config, seed)
    for mutant in MUTANTS:
        setting = {"what": "table", "estimator": "gae", "kl_coef": MUTANT_KL_COEF, "seed": seed, "mutant": mutant}
        yield setting, train_mutant(mutant, MUTANT_KL_COEF, seed)


def _transformers(seed: int) -> Iterator[tuple[dict[str, Any], Figures]]:
    for kl_coef in KL_COEFS:
        setting = {"estimator": "gae", "kl_coef": kl_coef, "seed": seed}
        yield {"what": "every weight", **setting}, train_every_weight(loop_config(kl_coef), seed)
        yield {"what": "adapter", **setting}, _adapter(loop_config(kl_coef), seed)
    setting = {"what": "adapter", "estimator": "rloo", "kl_coef": LOOP_KL_COEF, "seed": seed}
    yield setting, _adapter(loop_config(LOOP_KL_COEF, "rloo"), seed)


def _adapter(config: PpoConfig, seed: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return train_adapter(Path(folder), config, seed=seed)


def main(out: Path) -> None:
    """Measure everything and write it."""
    rows = []
    for setting, figures in measure():
        rows.append({**setting, **asdict(figures)})
        sys.stderr.write(f"{setting}: {figures}\n")
    out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
