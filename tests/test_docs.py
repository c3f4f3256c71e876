"""Pages that are made of what the code knows are up to date."""

import make_tables
from typer.main import get_command

from ellm.cli.main import app


def test_tables_of_models_are_what_the_code_says():
    page = make_tables.PAGE.read_text()
    written = page[page.index(make_tables.BEGIN) :]
    assert written == make_tables.section(), "run: python tests/helpers/make_tables.py"


def test_every_option_of_the_server_is_on_its_page():
    page = (make_tables.PAGE.parent / "serving.md").read_text()
    options = {name for one in get_command(app).commands["serve"].params for name in one.opts if name.startswith("--")}
    assert len(options) > 20 and [name for name in sorted(options) if f"`{name}" not in page] == []
