"""The table of alerts in docs/metrics.md, written from the rules.

`python -m tests.dashboards.alerts_page` writes it anew; a test fails where it is old.
"""

from __future__ import annotations

import re
from pathlib import Path

from .queries import ALERTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_TABLE = re.compile(r"<!-- alerts -->\n.*?<!-- end -->", re.DOTALL)


def rewritten(text: str) -> str:
    """`text` with the table as the rules have it."""
    lines = ["| alert | severity | what it means | what to do |", "|---|---|---|---|"]
    for alert in ALERTS:
        said = alert["annotations"]
        cells = [said["description"], said["action"]]
        shown = [re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"BACKEND", cell).replace("|", "\\|") for cell in cells]
        lines.append(f"| `{alert['alert']}` | {alert['labels']['severity']} | {shown[0]} | {shown[1]} |")
    table = "\n".join(lines)
    return _TABLE.sub(lambda _: f"<!-- alerts -->\n{table}\n<!-- end -->", text)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
