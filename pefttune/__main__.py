"""`python -m pefttune` is the command `pefttune`."""

from pefttune.cli import main

if __name__ == "__main__":
    main()
