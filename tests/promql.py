"""Which metrics a PromQL expression reads."""

import re

_WORDS = {"and", "or", "unless", "bool", "offset", "by", "on", "without", "ignoring"}


def metrics_in(expr: str) -> set[str]:
    """Every name in an expression that is neither a function, a keyword nor a label."""
    expr = re.sub(r"\{[^{}]*\}|\[[^\]]*\]", " ", re.sub(r'"[^"]*"', '""', expr))
    expr = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expr)
    return {
        name
        for name, after in re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(\s*\()?", expr)
        if not after and name not in _WORDS
    }
