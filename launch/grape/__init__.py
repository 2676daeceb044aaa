"""The `grape` command: bring-up, demo, evaluation, reports."""
