"""What is kept of compiled code is of the code as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def test_a_change_in_another_file_compiles_anew(root: Path, tmp_path: Path) -> None:
    package = tmp_path / "small"
    package.mkdir()
    shutil.copy(root / "airss" / "compiled.py", package / "compiled.py")
    (package / "__init__.py").touch()
    (package / "outer.py").write_text(
        "from small.compiled import compiled\nfrom small.called import called\n\n\n"
        "@compiled\ndef outer(x):\n    return called(x)\n"
    )

    def result(added: int) -> int:
        (package / "called.py").write_text(
            f"from small.compiled import inner\n\n\n@inner\ndef called(x):\n    return x + {added}\n"
        )
        command = [sys.executable, "-c", "from small.outer import outer; print(outer(1))"]
        return int(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    assert [result(1), result(1), result(100)] == [2, 2, 101]
    assert list(package.rglob("*.nbc")), "it was kept at all"
