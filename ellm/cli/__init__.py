"""The command line: `ellm run`, `ellm inspect`, `ellm bench`, `ellm doctor`."""
