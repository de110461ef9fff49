"""`python -m merge` is `adapt merge`."""

from merge.commands import app

if __name__ == "__main__":
    app()
