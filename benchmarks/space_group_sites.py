"""Find the special positions of all space groups, and write the table that ships as `airss/sites.json`.

    python benchmarks/space_group_sites.py --out airss/sites.json

It holds one point of every Wyckoff position, in the primitive cell; takes half a minute.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from unimat_search.airss.symmetry import find_site_points


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(out: Path) -> None:
    """Write the table."""
    table = [[point.round(10).tolist() for point in find_site_points(number)] for number in range(1, 231)]
    lines = ",\n".join(json.dumps(points, separators=(",", ":")) for points in table)
    out.write_text(f"[\n{lines}\n]\n")
    click.echo(f"{sum(map(len, table))} sites of {len(table)} space groups in {out}")


if __name__ == "__main__":
    main()
