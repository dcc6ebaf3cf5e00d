"""What runs in a fresh process: `python -m benchmarks.programs.NAME JOB.json RESULT.json`.

Each peer's file shows what is timed; what the peers share is in `measuring`. They need nothing else of ours, so that
they run in an environment without pefttune.
"""
