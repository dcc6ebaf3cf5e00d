"""What runs in a fresh process: `python -m benchmarks.programs.NAME JOB.json RESULT.json`.

Each peer's file stands alone, so that it runs in an environment without pefttune and shows the whole of what is timed.
"""
