"""The embedded world: everyday requests and answers, their grammar, and a hidden gold scorer. Imports no torch."""
