"""Pages that are made of what the code knows are up to date."""

import make_tables


def test_tables_of_models_are_what_the_code_says():
    page = make_tables.PAGE.read_text()
    written = page[page.index(make_tables.BEGIN) :]
    assert written == make_tables.section(), "run: python tests/helpers/make_tables.py"
