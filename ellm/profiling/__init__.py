"""Where the time of a model's steps goes: from the records of the workers to tables, traces and pages."""
