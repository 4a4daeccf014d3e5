"""`--fail-if 'setup_p99>0.5'`: what makes a load test fail. Pure, and strict about what it reads."""

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_EXPRESSION_CHARS = 100
_FORM = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<value>[0-9]+(?:\.[0-9]+)?)\s*"
)
_SIGNS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class BadThreshold(ValueError):
    """The expression cannot be read; the text says why."""


class UnknownMetric(BadThreshold):
    """The expression is about a figure that there is not."""


@dataclass(frozen=True)
class Threshold:
    """The test fails where `metric sign value` holds."""

    metric: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.value:g}"

    def objection(self, metrics: Mapping[str, float | None]) -> str:
        """Why the test has failed; empty when it has not. What was not measured proves nothing: it fails."""
        found = metrics.get(self.metric)
        if found is None or math.isnan(found):
            return f"{self}: {self.metric} was not measured"
        if _SIGNS[self.sign](found, self.value):
            return f"{self}: {self.metric} is {found:.4g}"
        return ""


def parse_threshold(text: str, known: Iterable[str]) -> Threshold:
    """Read `METRIC OP NUMBER`. Raises BadThreshold, or UnknownMetric with the names that there are."""
    match = _FORM.fullmatch(text) if len(text) <= MAX_EXPRESSION_CHARS else None
    if match is None:
        raise BadThreshold(
            f'"{text[:MAX_EXPRESSION_CHARS]}" is not METRIC>NUMBER, such as setup_p99>0.5'
        )
    names = sorted(known)
    if match["metric"] not in names:
        raise UnknownMetric(f'there is no figure "{match["metric"]}"; there are {", ".join(names)}')
    return Threshold(match["metric"], match["sign"], float(match["value"]))
