"""pytest puts the folder of a conftest.py on sys.path: every test can then import `tiny`, `measures` and the like."""
