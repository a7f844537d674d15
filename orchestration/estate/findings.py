"""What is wrong with an estate: a rule, words, and the line of the file."""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.orchestration.estate.lines import Where


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` is the number of the rule that is broken, `where` the path of what breaks it in the file, `remedy` what
    to do about it where that is not plain.
    """

    rule: str
    where: Where
    message: str
    remedy: str = ""

    def line(self, at: int | None) -> str:
        place = f"line {at}: " if at else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{place}{self.rule}: {self.message}{remedy}"
