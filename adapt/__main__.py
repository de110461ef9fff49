"""`python -m adapt` is `adapt`."""

from adapt.cli import main

if __name__ == "__main__":
    main()
