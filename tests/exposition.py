"""Prometheus' text format as a strict reader has it, and as Prometheus' own Python client does: both must agree."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

VALUE = r"\"(?:[^\"\\\n]|\\[\\\"n])*\""
LABEL = rf"[a-z_]+={VALUE}"
SERIES = re.compile(rf"([a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.e+-]+)")


def parsed(text: str) -> dict[str, float]:
    """Values by series, as they are written: every one after the HELP and TYPE of its name, no name twice."""
    found: dict[str, float] = {}
    names: list[str] = []
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            names.append(line.split(" ")[2])
            assert line.split(" ")[3:] and names.count(names[-1]) == 1, line
        elif line.startswith("# "):
            _, what, name, kind = line.split(" ")
            counts = name.endswith("_total")
            assert (what, name, kind) == ("TYPE", names[-1], "counter" if counts else "gauge"), line
        else:
            match = SERIES.fullmatch(line)
            assert match and match[1] == names[-1] and line.rpartition(" ")[0] not in found, line
            found[line.rpartition(" ")[0]] = float(match[3])
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert [one.value for one in samples] == list(found.values())
    return found


def labels(text: str, name: str) -> list[dict[str, str]]:
    """Those of a metric's series, by Prometheus' client."""
    families = text_string_to_metric_families(text)
    return [dict(one.labels) for family in families for one in family.samples if one.name == name]
