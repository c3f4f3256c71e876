"""Each program of bench/ says what it does when asked, and begins nothing."""

import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_help(path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCH)
    if path.stem == "versus":
        pytest.importorskip("torch", reason="its peer, which the tests do not install")
    main = runpy.run_path(str(path))["main"]
    monkeypatch.setattr("sys.argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {path.name}") and main.__globals__["__doc__"].strip() in out
