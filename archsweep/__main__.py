"""`python -m archsweep`."""

from archsweep.cli import main

if __name__ == "__main__":
    main()
