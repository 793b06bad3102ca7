"""Write how near to the known optimum every setting comes: python -m tests.exact.evidence OUT.json."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.exact.tabular import KL_COEFS, MUTANTS, table_config, train_mutant, train_table
from tests.exact.world import Figures

SEEDS = (0, 1, 2, 3)
MUTANT_KL_COEF = 0.35


def measure() -> Iterator[tuple[dict[str, Any], Figures]]:
    """Yield each setting with its figures."""
    for seed in SEEDS:
        for kl_coef in KL_COEFS:
            for estimator in ("gae", "rloo"):
                setting = {"estimator": estimator, "kl_coef": kl_coef, "seed": seed}
                yield (
                    setting,
                    train_table(table_config(kl_coef, estimator, episodes=8192 if kl_coef == 0.2 else 4096), seed),
                )
        for mutant in MUTANTS:
            setting = {"estimator": "gae", "kl_coef": MUTANT_KL_COEF, "seed": seed, "mutant": mutant}
            yield setting, train_mutant(mutant, MUTANT_KL_COEF, seed)


def main(out: Path) -> None:
    """Measure everything and write it."""
    rows = []
    for setting, figures in measure():
        rows.append({**setting, **asdict(figures)})
        sys.stderr.write(f"{setting}: {figures}\n")
    out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
