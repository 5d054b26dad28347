"""pytest plugin: what suites tried, and what they left out and why, in the summary at the end."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many laws and cases were tried on each part, and which laws were not asked of it."""
    trials = sys.modules.get("ebmkit.testing.trials")
    if trials is None:
        return
    tried: dict[str, list[int]] = defaultdict(list)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == trials.RECORDED:
                    tried[value[0]].append(value[2])
    if not tried:
        return
    terminalreporter.section("ebmkit laws")
    for subject, cases in tried.items():
        terminalreporter.write_line(f"{subject}: {len(cases)} laws tried on {sum(cases)} cases")
        left = ((law, reason) for of, law, reason in trials.unasked if of == subject)
        for line in trials.by_reason(left):
            terminalreporter.write_line(f"  {line}")
