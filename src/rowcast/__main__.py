"""``python -m rowcast`` is the ``rowcast`` command."""

from rowcast.cli import main

if __name__ == "__main__":
    main()
