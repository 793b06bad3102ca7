"""The type checker that jaxtyping applies in tests (see `addopts` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

# A whole number is a float wherever Python's typing says so (PEP 484).
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
