"""`python -m headway.cli`, which is `headway`."""

from headway.__main__ import main

if __name__ == "__main__":
    main()
