"""``python -m common.rewards.sandbox``: what this machine can enforce, found out by trying."""

from common.rewards.sandbox.run import main

if __name__ == "__main__":
    main()
