"""The table of a sweep: one row per arm, one column per value that was tried."""

import math

from lmlab.report.results import Summary
from lmlab.report.tables import Column, Row, TableView


def view_of(sweep, labels):
    """`TableView` of what `lmlab sweep` writes, NaN where training diverged. `labels`: {arm: label}, in order."""
    field, values = sweep["field"], sweep["values"]
    columns = [Column(value, value, "validation bits per byte", None, 3) for value in values]
    rows, edges = [], []
    for arm, label in labels.items():
        if arm not in sweep["validation_bpb"]:
            continue
        bpb = [math.nan if x is None else x for x in sweep["validation_bpb"][arm]]
        best = min(range(len(values)), key=lambda i: (math.isnan(bpb[i]), bpb[i]))
        cells = {value: Summary(x) for value, x in zip(values, bpb, strict=True)}
        if not math.isnan(bpb[best]):
            cells["best"] = Summary(float(values[best]))
            if best in (0, len(values) - 1):
                edges.append(label)
        rows.append(Row(arm, label, {}, cells))
    note = "" if not edges else f"The best value is the least or the greatest that was tried for {', '.join(edges)}."
    best = Column("best", "Best", field, None, 5)
    return TableView(f"{field}, one seed", [], [*columns, best], rows, "", note)
